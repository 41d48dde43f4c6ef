"""A chat completion in OpenAI's form, whole or in chunks, as servers really send it, and the parts that it
consists of: thoughts, text, refusals, calls of tools.

Puts chunks into no order: see `sequence`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from dutchdoor.gateway.dialects.reading import UNREADABLE
from dutchdoor.gateway.errors import ApiError

Kind = Literal["thinking", "text", "refusal", "call"]

NONE = msgspec.Raw(b"null")


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None  # an object from servers that parse it themselves


class CallPiece(msgspec.Struct):
    index: int | None = None  # some servers leave it out
    id: str | None = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A message, or the delta of one. vLLM renamed `reasoning_content` to `reasoning`; others never will."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[CallPiece] | None = None

    @property
    def thoughts(self) -> str:
        if self.reasoning_content:
            return self.reasoning_content
        if isinstance(self.reasoning, str):
            return self.reasoning
        # Mistral's: {"type": "thinking", "thinking": [{"type": "text", "text": …}]}
        nested = [part.get("thinking") for part in self._listed]
        return "".join(_texts(part for each in nested if isinstance(each, list) for part in each))

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(_texts(self._listed))

    @property
    def _listed(self) -> list[dict[str, Any]]:
        if not isinstance(self.content, list):
            return []
        return [part for part in self.content if isinstance(part, dict)]


def _texts(parts: Iterable[Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            yield text


class Logprobs(msgspec.Struct):
    content: msgspec.Raw = NONE


class Choice(msgspec.Struct):
    index: int = 0
    delta: Said | None = None
    message: Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM: the stop sequence that was met, or a token's number
    logprobs: msgspec.Raw = NONE


class Completion(msgspec.Struct):
    """A whole answer, or one chunk of it."""

    choices: list[Choice] = []
    usage: msgspec.Raw = NONE
    service_tier: str | None = None


class InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Counts(msgspec.Struct):
    """OpenAI's `usage`, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None

    @classmethod
    def of_cached(cls, tokens: int) -> "Counts":
        """Where only a number of cached tokens is known."""
        return cls(prompt_tokens_details=InputDetails(cached_tokens=tokens))

    @property
    def cached(self) -> int:
        details = self.prompt_tokens_details
        return max(0, (details.cached_tokens or 0) if details else 0)

    @property
    def cache_written(self) -> int:
        details = self.prompt_tokens_details
        return max(0, (details.cache_write_tokens or 0) if details else 0)

    @property
    def thought(self) -> int:
        details = self.completion_tokens_details
        return max(0, (details.reasoning_tokens or 0) if details else 0)


_COMPLETION = msgspec.json.Decoder(Completion)
_COUNTS: "msgspec.json.Decoder[Counts | None]" = msgspec.json.Decoder(Counts | None)
_LOGPROBS = msgspec.json.Decoder(Logprobs)


def counts_of(usage: msgspec.Raw) -> Counts | None:
    """Null where there is none that can be read."""
    try:
        return _COUNTS.decode(usage)
    except UNREADABLE:
        return None


def read_chunk(data: bytes) -> Completion | None:
    """One event's data; null for what is no chunk."""
    try:
        return _COMPLETION.decode(data)
    except UNREADABLE:
        return None


def tokens_of(logprobs: msgspec.Raw) -> msgspec.Raw | None:
    """The JSON array of tokens in a choice's `logprobs`; null where there is none."""
    if logprobs == NONE:
        return None
    try:
        content = _LOGPROBS.decode(logprobs).content
    except UNREADABLE:  # some servers have another form, which no dialect has a place for
        return None
    return content if bytes(content).startswith(b"[") else None


def arguments_of(function: Function | None) -> str:
    """The arguments as JSON text."""
    given = function.arguments if function is not None else None
    if given is None or isinstance(given, str):
        return given or ""
    return msgspec.json.encode(given).decode()


def joined(arrays: list[msgspec.Raw]) -> msgspec.Raw | None:
    """JSON arrays as one; null for none."""
    if len(arrays) < 2:
        return arrays[0] if arrays else None
    inside = (bytes(each).strip()[1:-1].strip() for each in arrays)
    return msgspec.Raw(b"[" + b",".join(each for each in inside if each) + b"]")


class Part:
    """One part of an answer. `number` counts from 0 in the order in which they are written."""

    __slots__ = ("id", "kind", "logprobs", "name", "number", "pieces")

    def __init__(self, kind: Kind, text: str = "") -> None:
        self.kind = kind
        self.number = -1  # not written yet
        self.id: str | None = None  # of a call, as the target names it
        self.name: str | None = None
        self.pieces = [text] if text else []
        self.logprobs: list[msgspec.Raw] = []  # each one's JSON array of tokens

    @property
    def text(self) -> str:
        """All of it so far; of a call its arguments."""
        return "".join(self.pieces)

    @property
    def extendable(self) -> bool:
        """Whether more of it may come: all but a call whose arguments are a whole JSON object."""
        if self.kind != "call":
            return False
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return True
        try:
            msgspec.json.decode(self.text.encode())
        except UNREADABLE:
            return True
        return False


class Whole(msgspec.Struct, frozen=True):
    """A whole answer, read."""

    parts: tuple[Part, ...]
    finish_reason: str | None
    stop_reason: Any
    counts: Counts | None
    service_tier: str | None


def read_whole(body: bytes) -> Whole:
    """The first choice of an answer; raises ApiError 502 for one that is no chat completion."""
    try:
        completion = _COMPLETION.decode(body)
    except UNREADABLE:
        completion = Completion()
    if not completion.choices or (said := completion.choices[0].message) is None:
        raise ApiError(
            502, "The target's answer is no chat completion.", type="server_error", code="unreadable_answer"
        )
    choice = completion.choices[0]
    return Whole(
        tuple(_parts(said, tokens_of(choice.logprobs))),
        choice.finish_reason,
        choice.stop_reason,
        counts_of(completion.usage),
        completion.service_tier,
    )


def _parts(said: Said, tokens: msgspec.Raw | None) -> list[Part]:
    texts: tuple[tuple[Kind, str], ...] = (
        ("thinking", said.thoughts),
        ("text", said.text),
        ("refusal", said.refusal or ""),
    )
    parts = [Part(kind, text) for kind, text in texts if text]
    for part in parts:
        if part.kind == "text" and tokens is not None:
            part.logprobs.append(tokens)
    for call in said.tool_calls or ():
        part = Part("call", arguments_of(call.function))
        part.id, part.name = call.id, call.function.name if call.function else None
        parts.append(part)
    for number, part in enumerate(parts):
        part.number = number
    return parts
