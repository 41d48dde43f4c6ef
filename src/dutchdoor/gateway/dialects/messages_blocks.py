"""The blocks that Anthropic's messages consist of, and what each becomes in a chat completion.

A kind of block that is not named here, and a field of one, is refused by its name.
"""

from typing import Any, Literal

import msgspec

from dutchdoor.gateway.dialects.naming import refuse
from dutchdoor.gateway.dialects.turns import Parts, Turns
from dutchdoor.gateway.errors import bad_parameter


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    cache_control: Any = None  # names what may be kept, and changes no answer


class Citations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool | None = None


class TextBlock(_Block, frozen=True, tag="text"):
    text: str
    citations: list[Any] | None = None


class Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="base64"):
    media_type: str
    data: str


class Url(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="url"):
    url: str


class PlainText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    data: str
    media_type: str = "text/plain"


class Transformations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    oversized_image: Literal["downsize", "error"] | None = None


class Image(_Block, frozen=True, tag="image"):
    source: Base64 | Url
    transformations: Transformations | None = None


class Blocks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="content"):
    content: str | list[TextBlock | Image]


class Document(_Block, frozen=True, tag="document"):
    source: Base64 | PlainText | Blocks
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


class Caller(msgspec.Struct, frozen=True):
    type: str


class ToolUse(_Block, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    caller: Caller | None = None
    toolset_name: str | None = None


class ToolResult(_Block, frozen=True, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | Image | Document] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


class Thought(_Block, frozen=True, tag="thinking"):
    thinking: str
    signature: str | None = None  # only Anthropic can check one


Content = str | list[TextBlock | Image | Document | ToolUse | ToolResult | Thought]
FAILED = "Error: "  # before the result of a call that failed, for which chat completions have no field


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: Content


class Reader:
    """Adds Anthropic's turns to a chat completion's; raises ApiError 400 for what has no place there."""

    def __init__(self, turns: Turns, who: str) -> None:
        self._turns = turns
        self._who = who

    def turn(self, turn: Turn, where: str) -> None:
        """`where` is its place in the body."""
        if not turn.content:  # it would vanish, and with it the end of the turn before
            raise bad_parameter(
                f"{where}.content", f"Invalid '{where}.content': it is empty.", code="empty_array"
            )
        content = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
        places = [(block, f"{where}.content[{index}]") for index, block in enumerate(content)]
        if turn.role == "system":
            self._turns.system([self._only_text(block, place) for block, place in places])
        elif turn.role == "assistant":
            for block, place in places:
                self._said(block, place)
        else:
            self._asked(places)

    def _only_text(self, block: Any, where: str) -> str:
        if not isinstance(block, TextBlock):
            raise bad_parameter(f"{where}.type", f"Unsupported value: '{where}.type' must be 'text'.")
        return self._text(block, where)["text"]  # type: ignore[no-any-return]  # a part of text has one

    def _said(self, block: Any, where: str) -> None:
        if isinstance(block, TextBlock):
            self._turns.say(self._checked(block, where).text)
        elif isinstance(block, Thought):
            self._turns.think(block.thinking)
        elif isinstance(block, ToolUse):
            if block.caller is not None and block.caller.type != "direct":
                raise refuse(f"{where}.caller", self._who)
            if block.toolset_name is not None:
                raise refuse(f"{where}.toolset_name", self._who)
            self._turns.call(block.id, block.name, msgspec.json.encode(block.input).decode())
        else:
            raise bad_parameter(
                f"{where}.type", f"Unsupported value: '{where}.type' has no place in an assistant's turn."
            )

    def _asked(self, places: list[tuple[Any, str]]) -> None:
        parts: Parts = []
        for block, where in places:
            if isinstance(block, ToolResult):
                if parts:  # a result behind other words: in this order
                    self._turns.user(parts)
                    parts = []
                self._result(block, where)
            else:
                parts += self._parts(block, where)
        if parts:
            self._turns.user(parts)

    def _result(self, block: ToolResult, where: str) -> None:
        if block.toolset_name is not None:
            raise refuse(f"{where}.toolset_name", self._who)
        given = block.content
        content: list[Any] = [TextBlock(text=given)] if isinstance(given, str) else list(given or ())
        parts = [
            part
            for index, each in enumerate(content)
            for part in self._parts(each, f"{where}.content[{index}]")
        ]
        if block.is_error:
            if parts and parts[0]["type"] == "text":
                parts[0]["text"] = FAILED + parts[0]["text"]
            else:
                parts.insert(0, self._turns.text(FAILED.rstrip(": ")))
        self._turns.result(block.tool_use_id, parts)

    def _parts(self, block: Any, where: str) -> Parts:
        if isinstance(block, TextBlock):
            return [self._text(block, where)]
        if isinstance(block, Image):
            return [self._image(block, where)]
        if isinstance(block, Document):
            return self._document(block, where)
        raise bad_parameter(
            f"{where}.type", f"Unsupported value: '{where}.type' has no place in a user's turn."
        )

    def _checked(self, block: TextBlock, where: str) -> TextBlock:
        if block.citations:
            raise refuse(f"{where}.citations", self._who)
        return block

    def _text(self, block: TextBlock, where: str) -> dict[str, Any]:
        return self._turns.text(self._checked(block, where).text)

    def _image(self, block: Image, where: str) -> dict[str, Any]:
        if block.transformations is not None and block.transformations.oversized_image == "error":
            raise refuse(f"{where}.transformations", self._who)
        return self._turns.image(_url(block.source))

    def _document(self, block: Document, where: str) -> Parts:
        if block.citations is not None and block.citations.enabled:
            raise refuse(f"{where}.citations", self._who)
        source = block.source
        about = [] if block.context is None else [self._turns.text(block.context)]
        if isinstance(source, Base64):
            return [
                *about,
                self._turns.file(filename=block.title or "document.pdf", file_data=_url(source)),
            ]
        if block.title is not None:
            about.insert(0, self._turns.text(block.title))
        if isinstance(source, PlainText):
            return [*about, self._turns.text(source.data)]
        if isinstance(source.content, str):
            return [*about, self._turns.text(source.content)]
        place = f"{where}.source.content"
        for index, each in enumerate(source.content):
            about += self._parts(each, f"{place}[{index}]")
        return about


def _url(source: Base64 | Url) -> str:
    return source.url if isinstance(source, Url) else f"data:{source.media_type};base64,{source.data}"
