"""A stream's chunks as parts, one after the other.

Chat completions put their pieces side by side; in the other dialects one part follows the other. Holds no
dialect's words: a `Writer` has them.
"""

from typing import Any, Protocol

import msgspec

from dutchdoor.gateway.dialects.chunks import (
    NONE,
    CallPiece,
    Choice,
    Counts,
    Kind,
    Part,
    arguments_of,
    counts_of,
    joined,
    read_chunk,
    tokens_of,
)
from dutchdoor.gateway.errors import BrokenStreamError

MARKER = b"[DONE]"


class NoChunkError(BrokenStreamError, ValueError):
    """A target's event cannot be translated. A ValueError too, as of an `EventStream`: whoever takes pieces
    from a connection ends the stream on one.
    """


class Writer(Protocol):
    """A dialect's words for a stream."""

    def begin(self) -> None:
        """Once, before anything else."""
        ...

    def idle(self) -> None:
        """The target has sent a sign of life."""
        ...

    def open(self, part: Part) -> None: ...

    def add(self, part: Part, piece: str, logprobs: msgspec.Raw | None) -> None: ...

    def close(self, part: Part, cut: bool) -> None:
        """`cut`: by the cap on output tokens."""
        ...


class Sequence:
    """Tells a writer the parts of a stream one after the other, each as it comes.

    Where a target writes several calls at once, the first is told as it comes and the others when it is
    complete, for no client expects two open parts.
    """

    def __init__(self, writer: Writer) -> None:
        self.parts: list[Part] = []  # that were opened
        self.finish_reason: str | None = None
        self.stop_reason: Any = None
        self.counts: Counts | None = None
        self.service_tier: str | None = None
        self._writer = writer
        self._begun = False
        self._open: Part | None = None
        self._waiting: list[Part] = []
        self._calls: dict[int, Part] = {}
        self._last_call = -1

    def feed(self, events: bytes) -> None:
        """Whole events of OpenAI's; raises NoChunkError for what is none."""
        if b"\r" in events:  # never inside of JSON
            events = events.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for event in events.split(b"\n\n"):
            if event.startswith(b"data:") and b"\n" not in event:
                self._take(event[5:])
            elif data := b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:")):
                self._take(data)
            elif event.strip(b"\n"):
                self._begin()
                self._writer.idle()

    def end(self, *, cut: bool = False) -> None:
        """Close what is open, and tell what still waits."""
        self._begin()
        while self._waiting:
            self._advance(force=True)
        if self._open is not None:
            part, self._open = self._open, None
            self._writer.close(part, cut)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._writer.begin()

    def _take(self, data: bytes) -> None:
        chunk = read_chunk(data)
        if chunk is None:
            if data.strip() == MARKER:
                return
            raise NoChunkError("an event that is no chunk of a chat completion")
        self._begin()
        if chunk.usage != NONE:
            self.counts = counts_of(chunk.usage) or self.counts
        self.service_tier = chunk.service_tier or self.service_tier
        for choice in chunk.choices:
            if choice.index == 0:  # no other one was asked for
                self._choice(choice)

    def _choice(self, choice: Choice) -> None:
        delta = choice.delta
        if delta is not None:
            if thoughts := delta.thoughts:
                self._tell("thinking", thoughts)
            if text := delta.text:
                self._tell("text", text, tokens_of(choice.logprobs))
            if delta.refusal:
                self._tell("refusal", delta.refusal)
            for piece in delta.tool_calls or ():
                self._call(piece)
        if choice.finish_reason is not None:
            self.finish_reason, self.stop_reason = choice.finish_reason, choice.stop_reason
            self.end(cut=choice.finish_reason == "length")

    def _tell(self, kind: Kind, text: str, tokens: msgspec.Raw | None = None) -> None:
        part = self._waiting[-1] if self._waiting else self._open
        if part is None or part.kind != kind:
            part = Part(kind)
            self._waiting.append(part)
        if tokens is not None:
            part.logprobs.append(tokens)
        self._extend(part, text, tokens)

    def _extend(self, part: Part, text: str, logprobs: msgspec.Raw | None = None) -> None:
        if text:
            part.pieces.append(text)
        if part is not self._open:
            self._advance()
        elif text:
            self._writer.add(part, text, logprobs)

    def _call(self, piece: CallPiece) -> None:
        index = piece.index
        if index is None:  # then a new id begins a new call
            index = self._last_call + 1 if piece.id or self._last_call < 0 else self._last_call
        part = self._calls.get(index)
        if part is None or (piece.id and part.id and piece.id != part.id):
            # Gemini gives every call of an answer the index 0
            part = self._calls[index] = Part("call")
            self._waiting.append(part)
        self._last_call = index
        part.id = part.id or piece.id
        if piece.function is not None and piece.function.name:
            part.name = part.name or piece.function.name
        text = arguments_of(piece.function)
        if part.number >= 0 and part is not self._open:  # it was complete
            if text.strip():
                raise NoChunkError("arguments of a call that was complete")
            return
        self._extend(part, text)

    def _advance(self, *, force: bool = False) -> None:
        """Open what waits, as far as what is open before it is complete."""
        while self._waiting:
            part = self._waiting[0]
            nameless = part.kind == "call" and part.name is None
            if not force and (nameless or (self._open is not None and self._open.extendable)):
                return
            if self._open is not None:
                self._writer.close(self._open, False)
            del self._waiting[0]
            part.number = len(self.parts)
            self.parts.append(part)
            self._open = part
            self._writer.open(part)
            if text := part.text:
                self._writer.add(part, text, joined(part.logprobs))
