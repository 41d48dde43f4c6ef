"""Server-sent events of an upstream, passed on as they come: only what is needed is read, with a byte
search.

Cuts a stream between events, finds the last usage, keeps the end marker back, and takes an event out where
it was the gateway that asked for it. Events are not parsed one by one: that would cost more than everything
else.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from dutchdoor.engines.interface import Usage

END = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)
MARKER = b"[DONE]"
BOUNDARY = re.compile(rb"\r?\n\r?\n|\r\r")
HAS_USAGE = re.compile(rb'"usage"\s*:\s*\{')
FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
MAY_HAVE_FAILED = re.compile(rb'"error"\s*:(?!\s*null)|^event: ?error', re.MULTILINE)
ERROR_EVENT = re.compile(rb"^event: ?error", re.MULTILINE)
WORD = re.compile(
    rb'"(?:content|reasoning_content|reasoning|refusal|arguments)"\s*:\s*"(?!")'
)  # a delta that says something
LONGEST_EVENT = 64 << 20  # bytes; an upstream that never ends an event is broken


Tokens = Annotated[
    int, msgspec.Meta(ge=0, le=1 << 40)
]  # more is no count of tokens, but a fault of the upstream


class _Counts(msgspec.Struct):
    prompt_tokens: Tokens
    completion_tokens: Tokens = 0


class _Event(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")
    choices: list[msgspec.Raw] = []


class _Choice(msgspec.Struct):
    message: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


_EVENT = msgspec.json.Decoder(_Event)
_COUNTS = msgspec.json.Decoder(_Counts | None)


def read_usage(body: bytes) -> Usage | None:
    """The usage of a whole answer or of one event's data; null where it has none that can be read."""
    parsed = _parse(body)
    return None if parsed is None else _usage(parsed)


def bytes_said(body: bytes) -> int:
    """Bytes of text in a whole answer's messages, where no usage tells the tokens: what a stream would have
    sent.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return sum(_message_bytes(choice.message) for choice in answer.choices)


def _message_bytes(message: dict[str, Any]) -> int:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    texts += [message.get("refusal"), message.get("reasoning_content") or message.get("reasoning")]
    asked = message.get("tool_calls")
    calls = (
        [each.get("function") for each in asked if isinstance(each, dict)] if isinstance(asked, list) else []
    )
    for function in (*calls, message.get("function_call")):
        texts += [function.get("arguments")] if isinstance(function, dict) else []
    return sum(len(text.encode()) for text in texts if isinstance(text, str))


def is_answer(body: bytes) -> bool:
    """Whether a body is a JSON object with choices: what a chat completion must be."""
    parsed = _parse(body)
    return parsed is not None and bool(parsed.choices)


class EventStream:
    """Feed it pieces, send what it returns. `tail` is the end marker, kept back until the request is
    settled.
    """

    def __init__(self, *, keep_usage: bool) -> None:
        self.keep_usage = keep_usage
        self.usage: Usage | None = None
        self.relayed = 0  # deltas passed on, which stand for tokens where an upstream never tells
        self.finished = False
        self.failed = False
        self.tail = b""
        self._held = bytearray()

    def feed(self, piece: bytes) -> bytes:
        """Whole events so far, as they came; the rest waits for the next piece. Raises ValueError for no
        events.
        """
        if not self._held and piece.endswith((b"\n\n", b"\r\n\r\n")):
            return self._pass(piece)
        searched = max(0, len(self._held) - 3)
        self._held += piece
        last = None
        for last in BOUNDARY.finditer(self._held, searched):  # noqa: B007 - the last one is what is wanted
            pass
        if last is None:
            if len(self._held) > LONGEST_EVENT:
                raise ValueError("an event without an end")
            return b""
        whole = bytes(self._held[: last.end()])
        del self._held[: last.end()]
        return self._pass(whole)

    def close(self) -> bytes:
        """What is left when the upstream ends without a blank line."""
        rest = bytes(self._held)
        self._held.clear()
        return self._pass(rest) if rest else b""

    def _pass(self, events: bytes) -> bytes:
        if self.tail or self.failed:  # nothing comes after the end marker, or after an error
            return b""
        if MARKER in events and (end := END.search(events)):
            events, self.tail = events[: end.start()], events[end.start() :].rstrip() + b"\n\n"
        if not events:
            return b""
        if not self.finished and FINISHED.search(events):
            self.finished = True
        if MAY_HAVE_FAILED.search(events):
            events = self._before_error(events)
        if HAS_USAGE.search(events):
            events = self._read(events)
        self.relayed += len(WORD.findall(events))
        return events

    def _before_error(self, events: bytes) -> bytes:
        """The events before an upstream's error, whose words may hold its key or its address: they stay
        here.
        """
        kept = []
        for event in _each(events):
            if MAY_HAVE_FAILED.search(event) and _is_error(event):
                self.failed = True
                break
            kept.append(event)
        return b"".join(kept)

    def _read(self, events: bytes) -> bytes:
        return b"".join(self._one(event) for event in _each(events))

    def _one(self, event: bytes) -> bytes:
        if not HAS_USAGE.search(event):
            return event
        parsed = _parse(_data(event))
        if parsed is None:
            return event
        self.usage = _usage(parsed) or self.usage
        return event if self.keep_usage or parsed.choices else b""


def _each(events: bytes) -> Iterator[bytes]:
    start = 0
    for boundary in BOUNDARY.finditer(events):
        yield events[start : boundary.end()]
        start = boundary.end()
    if start < len(events):
        yield events[start:]


def _data(event: bytes) -> bytes:
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def _is_error(event: bytes) -> bool:
    if ERROR_EVENT.search(event):
        return True
    parsed = _parse(_data(event))
    return parsed is None or bytes(parsed.error) != b"null"  # what cannot be read is not passed on


def _parse(data: bytes) -> _Event | None:
    try:
        return _EVENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _usage(parsed: _Event) -> Usage | None:
    try:
        counts = _COUNTS.decode(parsed.usage)
    except msgspec.ValidationError:
        return None
    if counts is None:
        return None
    return Usage(input_tokens=counts.prompt_tokens, output_tokens=counts.completion_tokens)
