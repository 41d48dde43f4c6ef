"""What a dialect is: how a client of one API asks, is answered, and is told what went wrong.

A dialect reads a request into OpenAI's form of an operation and writes answers back. OpenAI's own are passed
through untouched; the others are translated.
"""

from typing import Protocol

from dutchdoor.gateway.call import Asked, Call
from dutchdoor.gateway.errors import ApiError
from dutchdoor.ledger.requests import Used


class Translator(Protocol):
    """A stream of OpenAI's events on its way into another dialect."""

    def feed(self, events: bytes) -> bytes:
        """Whole events of OpenAI's, any number of them, in the order in which they came; returns the
        dialect's events, perhaps none. Raises NoChunkError, a BrokenStreamError, for what cannot be translated.
        """
        ...

    def end(self, used: Used) -> bytes:
        """The events after the last piece, sent when the request is settled; `used` is what was booked."""
        ...

    def broken(self, message: str) -> bytes:
        """The event that ends a stream which broke after its first byte, in its place in this stream."""
        ...


class Dialect(Protocol):
    """The way in and out of one path."""

    @property
    def path(self) -> str:
        """For example `/v1/chat/completions`."""
        ...

    def read(self, body: bytes) -> Asked:
        """What is asked; raises ApiError 400 that names the parameter."""
        ...

    def error(self, error: ApiError) -> bytes:
        """The JSON body of an error."""
        ...

    def answer(self, call: Call, body: bytes) -> bytes:
        """A whole answer in OpenAI's form, as this dialect writes it."""
        ...

    def translator(self, call: Call) -> Translator | None:
        """Null: OpenAI's events are passed on as they are."""
        ...

    def broken(self, message: str) -> bytes:
        """The event that ends a stream which broke after its first byte."""
        ...
