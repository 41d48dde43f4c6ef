"""Server-sent events of an upstream, passed on as they come: only what is needed is read, with a byte
search.

Cuts a stream between events, finds the last usage, keeps the end marker back, and takes an event out where
it was the gateway that asked for it. Events are not parsed one by one: that would cost more than everything
else.
"""

import re
from typing import Annotated

import msgspec

from dutchdoor.engines.interface import Usage

END = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)
MARKER = b"[DONE]"
BOUNDARY = re.compile(rb"\r?\n\r?\n|\r\r")
HAS_USAGE = re.compile(rb'"usage"\s*:\s*\{')
FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
FAILED = re.compile(rb'^data: ?\{\s*"error"\s*:', re.MULTILINE)
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
    choices: list[msgspec.Raw] = []


_EVENT = msgspec.json.Decoder(_Event)
_COUNTS = msgspec.json.Decoder(_Counts | None)


def read_usage(body: bytes) -> Usage | None:
    """The usage of a whole answer or of one event's data; null where it has none that can be read."""
    parsed = _parse(body)
    return None if parsed is None else _usage(parsed)


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
        if self.tail:  # nothing comes after the end marker
            return b""
        if MARKER in events and (end := END.search(events)):
            events, self.tail = events[: end.start()], events[end.start() :].rstrip() + b"\n\n"
        if not events:
            return b""
        if not self.finished and FINISHED.search(events):
            self.finished = True
        if FAILED.search(events):
            self.failed = True
        if HAS_USAGE.search(events):
            events = self._read(events)
        self.relayed += len(WORD.findall(events))
        return events

    def _read(self, events: bytes) -> bytes:
        kept = []
        start = 0
        for boundary in BOUNDARY.finditer(events):
            kept.append(self._one(events[start : boundary.end()]))
            start = boundary.end()
        kept.append(self._one(events[start:]))
        return b"".join(kept)

    def _one(self, event: bytes) -> bytes:
        if not HAS_USAGE.search(event):
            return event
        data = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        parsed = _parse(data)
        if parsed is None:
            return event
        self.usage = _usage(parsed) or self.usage
        return event if self.keep_usage or parsed.choices else b""


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
