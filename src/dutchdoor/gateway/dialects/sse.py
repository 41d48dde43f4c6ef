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
from dutchdoor.gateway.call import BYTES_PER_TOKEN

END = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)
MARKER = b"[DONE]"
BOUNDARY = re.compile(rb"\r?\n\r?\n|\r\r")
HAS_USAGE = re.compile(rb'"usage"\s*:\s*\{')
REASON = b'finish_reason"'
UNFINISHED = b'finish_reason":null'
FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
MAY_HAVE_FAILED = re.compile(rb'"error"\s*:(?!\s*null)|^event: ?error', re.MULTILINE)
ERROR_EVENT = re.compile(rb"^event: ?error", re.MULTILINE)
WORD = re.compile(  # what a delta says, if it says something
    rb'"(?:content|reasoning_content|reasoning|refusal|arguments|text)"\s*:\s*"(?!")([^"\\]*(?:\\.[^"\\]*)*)'
)
LONGEST_TOKEN = 32  # bytes of text; a longer delta holds several tokens
LONG_DELTA = 1024  # bytes of one event, of which most is its frame
LARGE = 64 << 10  # bytes of events in which every delta is looked at
LONGEST_EVENT = 64 << 20  # bytes; an upstream that never ends an event is broken


Tokens = Annotated[
    int, msgspec.Meta(ge=0, le=1 << 40)
]  # more is no count of tokens, but a fault of the upstream


class _Details(msgspec.Struct):
    cached_tokens: Tokens | None = None
    cache_write_tokens: Tokens | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: Tokens
    completion_tokens: Tokens = 0
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")
    choices: list[msgspec.Raw] = []
    data: list[msgspec.Raw] = []


class _Choice(msgspec.Struct):
    message: dict[str, Any] | None = None
    text: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


_EVENT = msgspec.json.Decoder(_Event)
_COUNTS = msgspec.json.Decoder(_Counts | None)


class Read(msgspec.Struct, frozen=True):
    """What is read of a whole answer: whether it is one, and its usage."""

    is_answer: bool
    usage: Usage | None


def read_answer(body: bytes) -> Read:
    """A JSON object with choices (or, of embeddings, data) is an answer; usage is null where none can be
    read.
    """
    parsed = _parse(body)
    if parsed is None:
        return Read(False, None)
    return Read(bool(parsed.choices or parsed.data), _usage(parsed))


def bytes_said(body: bytes) -> int:
    """Bytes of text in a whole answer's messages, where no usage tells the tokens: what a stream would have
    sent.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return sum(
        _message_bytes(each.message or {}) + len((each.text or "").encode()) for each in answer.choices
    )


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


class EventStream:
    """Feed it pieces, send what it returns. `tail` is the end marker, kept back until the request is
    settled.
    """

    __slots__ = ("_held", "_told", "_told_at", "failed", "finished", "keep_usage", "relayed", "tail")

    def __init__(self, *, keep_usage: bool) -> None:
        self.keep_usage = keep_usage
        self.relayed = 0  # tokens passed on: one a delta, more in a long one
        self._told: Usage | None = None
        self._told_at = 0  # `relayed` when it was told
        self.finished = False
        self.failed = False
        self.tail = b""
        self._held = bytearray()

    @property
    def usage(self) -> Usage | None:
        """The last that was told, and what was passed on since; null where none was."""
        since = self.relayed - self._told_at
        if self._told is None or since <= 0:
            return self._told
        return msgspec.structs.replace(self._told, output_tokens=self._told.output_tokens + since)

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
        """What is left when the upstream ends without a blank line, with one; half an event is left out, for
        what follows would be read as its end.
        """
        rest = bytes(self._held).rstrip()
        self._held.clear()
        if _parse(_data(rest)) is None and not END.search(rest):
            return b""
        return self._pass(rest + b"\n\n")

    def _pass(self, events: bytes) -> bytes:
        if self.tail or self.failed:  # nothing comes after the end marker, or after an error
            return b""
        if MARKER in events and (end := END.search(events)):
            events, self.tail = events[: end.start()], end.group().rstrip() + b"\n\n"
        if not events:
            return b""
        # plain searches first: they cost a tenth of what an expression does
        if not self.finished and events.count(UNFINISHED) < events.count(REASON) and FINISHED.search(events):
            self.finished = True
        if b"error" in events and MAY_HAVE_FAILED.search(events):
            events = self._before_error(events)
        if b'"usage"' in events and HAS_USAGE.search(events):
            return b"".join(self._one(event) for event in _each(events))
        self.relayed += _tokens(events)
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

    def _one(self, event: bytes) -> bytes:
        self.relayed += _tokens(event)
        if not HAS_USAGE.search(event):
            return event
        parsed = _parse(_data(event))
        if parsed is None:
            return event
        if (told := _usage(parsed)) is not None:
            self._told, self._told_at = told, self.relayed
        return event if self.keep_usage or parsed.choices else b""


def _tokens(events: bytes) -> int:
    if len(events) <= LONG_DELTA and events.count(b'"content":"') == 1 == events.count(b"\ndata:") + 1:
        start = events.find(b'"content":"') + 11  # what most pieces are, at a third of the cost
        said = events.find(b'"', start) - start
        if said <= LONGEST_TOKEN and events[start + said - 1] != 92:  # no quote that is escaped
            return 1 if said else 0
    if len(events) <= LARGE:
        return sum(map(_many, map(len, WORD.findall(events))))
    return len(events) // BYTES_PER_TOKEN if WORD.search(events) else 0


def _many(said: int) -> int:
    """Tokens of one delta with so many bytes of text."""
    return 1 if said <= LONGEST_TOKEN else said // BYTES_PER_TOKEN


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
    if counts is None or not (counts.prompt_tokens or counts.completion_tokens):
        return None  # no request has no input: some servers write zeros for what they did not count
    details = counts.prompt_tokens_details
    return Usage(
        input_tokens=counts.prompt_tokens,
        output_tokens=counts.completion_tokens,
        cached_tokens=0 if details is None else details.cached_tokens or 0,
        written_tokens=0 if details is None else details.cache_write_tokens or 0,
    )
