"""The items that a conversation of OpenAI's responses consists of, and what each becomes in a chat completion.

A kind of item that is not named here, and a field of one, is refused by its name.
"""

from typing import Any, Literal

import msgspec

from dutchdoor.gateway.dialects.naming import decoded, refuse
from dutchdoor.gateway.dialects.turns import Parts, Turns
from dutchdoor.gateway.errors import bad_parameter


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    prompt_cache_breakpoint: Any = None  # names what may be kept, and changes no answer


class InputText(_Content, frozen=True, tag="input_text"):
    text: str


class InputImage(_Content, frozen=True, tag="input_image"):
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None


class InputFile(_Content, frozen=True, tag="input_file"):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None
    detail: Literal["auto", "low", "high"] | None = None


class OutputText(_Content, frozen=True, tag="output_text"):
    text: str
    annotations: list[Any] = []
    logprobs: Any = None  # of an earlier answer: nothing that a model is shown
    parsed: Any = None  # what the official client made of the text


class Refusal(_Content, frozen=True, tag="refusal"):
    refusal: str


Content = InputText | InputImage | InputFile | OutputText | Refusal
Shown = str | list[InputText | InputImage | InputFile]


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    type: str = "message"
    id: str | None = None  # names an earlier answer's item, of which nothing is kept here
    status: str | None = None


class MessageItem(_Item, frozen=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]
    phase: str | None = None


class Caller(msgspec.Struct, frozen=True):
    type: str


class CallItem(_Item, frozen=True, rename={"in_background": "async"}):
    call_id: str
    name: str
    arguments: str
    caller: Caller | None = None
    namespace: str | None = None
    in_background: bool | None = None
    parsed_arguments: Any = None  # what the official client made of the arguments


class ResultItem(_Item, frozen=True):
    call_id: str
    output: Shown
    caller: Caller | None = None
    namespace: str | None = None
    name: str | None = None


class SummaryText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    type: Literal["summary_text"] = "summary_text"


class ReasoningText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    type: Literal["reasoning_text"] = "reasoning_text"


class ReasoningItem(_Item, frozen=True):
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


class Kind(msgspec.Struct, frozen=True):
    type: str = "message"


_KIND = msgspec.json.Decoder(Kind)
_MESSAGE = msgspec.json.Decoder(MessageItem)
_CALL = msgspec.json.Decoder(CallItem)
_RESULT = msgspec.json.Decoder(ResultItem)
_REASONING = msgspec.json.Decoder(ReasoningItem)


class ItemReader:
    """Adds items to a chat completion's turns; raises ApiError 400 for what has no place there."""

    def __init__(self, turns: Turns, who: str) -> None:
        self._turns = turns
        self._who = who

    def item(self, raw: msgspec.Raw, where: str) -> None:
        """`where` is its place in the body."""
        kind = decoded(_KIND, raw, self._who, where).type
        if kind == "message":
            self._message(decoded(_MESSAGE, raw, self._who, where), where)
        elif kind == "function_call":
            self._call(decoded(_CALL, raw, self._who, where), where)
        elif kind == "function_call_output":
            self._result(decoded(_RESULT, raw, self._who, where), where)
        elif kind == "reasoning":
            self._reasoning(decoded(_REASONING, raw, self._who, where), where)
        else:
            raise refuse(f"{where}.type", self._who, f"It is '{kind[:60]}'.")

    def _message(self, item: MessageItem, where: str) -> None:
        if item.phase is not None:
            raise refuse(f"{where}.phase", self._who)
        content = [InputText(text=item.content)] if isinstance(item.content, str) else item.content
        parts = [
            part
            for index, each in enumerate(content)
            for part in self._parts(each, item.role, f"{where}.content[{index}]")
        ]
        if item.role == "user":
            self._turns.user(parts, apart=True)
        elif item.role == "assistant":
            for index, part in enumerate(parts):
                self._turns.say(part["text"], apart=index == 0)
        else:  # `developer` is OpenAI's newer word for it, which most servers do not know
            self._turns.system([part["text"] for part in parts])

    def _parts(self, content: Content, role: str, where: str) -> Parts:
        said = isinstance(content, OutputText | Refusal)
        if (said and role != "assistant") or (
            not said and not isinstance(content, InputText) and role != "user"
        ):
            raise bad_parameter(
                f"{where}.type", f"Unsupported value: '{where}.type' has no place in a message of '{role}'."
            )
        if isinstance(content, OutputText):
            if content.annotations:
                raise refuse(f"{where}.annotations", self._who)
            return [{"type": "text", "text": content.text}]
        if isinstance(content, Refusal):
            return [{"type": "text", "text": content.refusal}]
        if isinstance(content, InputText):
            return [
                self._turns.text(content.text) if role == "user" else {"type": "text", "text": content.text}
            ]
        return [
            self._image(content, where) if isinstance(content, InputImage) else self._file(content, where)
        ]

    def _image(self, image: InputImage, where: str) -> dict[str, Any]:
        if image.file_id is not None:
            raise refuse(f"{where}.file_id", self._who)
        if image.image_url is None:
            raise _missing(f"{where}.image_url")
        return self._turns.image(image.image_url, image.detail)

    def _file(self, file: InputFile, where: str) -> dict[str, Any]:
        if file.file_url is not None:
            raise refuse(f"{where}.file_url", self._who)
        if file.detail not in (None, "auto"):
            raise refuse(f"{where}.detail", self._who)
        given = {"file_data": file.file_data, "file_id": file.file_id, "filename": file.filename}
        if file.file_data is None and file.file_id is None:
            raise _missing(f"{where}.file_data")
        return self._turns.file(**{name: value for name, value in given.items() if value is not None})

    def _call(self, item: CallItem, where: str) -> None:
        self._direct(item.caller, item.namespace, where)
        if item.in_background:
            raise refuse(f"{where}.async", self._who)
        self._turns.call(item.call_id, item.name, item.arguments)

    def _result(self, item: ResultItem, where: str) -> None:
        self._direct(item.caller, item.namespace, where)
        content: list[Any] = [InputText(text=item.output)] if isinstance(item.output, str) else item.output
        parts = [
            part
            for index, each in enumerate(content)
            for part in self._parts(each, "user", f"{where}.output[{index}]")
        ]
        self._turns.result(item.call_id, parts)

    def _direct(self, caller: Caller | None, namespace: str | None, where: str) -> None:
        if caller is not None and caller.type != "direct":
            raise refuse(f"{where}.caller", self._who)
        if namespace is not None:
            raise refuse(f"{where}.namespace", self._who)

    def _reasoning(self, item: ReasoningItem, where: str) -> None:
        texts = [each.text for each in item.content or item.summary]
        if item.encrypted_content and not item.content:
            raise refuse(f"{where}.encrypted_content", self._who, "Only whoever encrypted it can read it.")
        if texts:
            self._turns.think("\n".join(texts), apart=True)


def _missing(name: str) -> Exception:
    return bad_parameter(name, f"Missing required parameter: '{name}'.", code="missing_required_parameter")
