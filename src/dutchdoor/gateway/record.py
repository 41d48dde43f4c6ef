"""What became of a request, for whoever watches: the log, the metrics, the traces.

Holds counts, names, ids and times; never a prompt, an answer or a key.
"""

from typing import Protocol

import msgspec

from dutchdoor.ledger.requests import Counted, State


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was admitted and has come to its end. Times in seconds; `at` is Unix time."""

    id: str
    key: str  # the key's id
    dialect: str  # the path it came in by
    model: str
    target: str
    upstream_model: str | None = None  # what the target calls it, where that may be known
    state: State
    counted: Counted
    stream: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    nanodollars: int | None = None
    alarm: str | None = None
    tries: int = 1  # targets asked, again or one after the other
    traceparent: str | None = None  # of the caller's trace (W3C Trace Context)
    at: float
    admitted_s: float = 0.0  # until its worst case was reserved
    first_s: float | None = None  # until the first byte went to the client
    total_s: float


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered with an error before anything was admitted, or because no target answered."""

    id: str
    dialect: str
    model: str | None = None
    key: str | None = None
    status: int
    code: str | None = None
    traceparent: str | None = None
    at: float
    total_s: float


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one target. `failure` is null where it answered; `status` is what it said, if it did."""

    id: str
    target: str
    failure: str | None = None
    status: int | None = None
    total_s: float


class Observer(Protocol):
    """Told synchronously on the request path: it must return at once and never raise."""

    def done(self, done: Done) -> None: ...

    def refused(self, refused: Refused) -> None: ...

    def tried(self, tried: Tried) -> None: ...

    def close(self) -> None:
        """The server ends: write out what is held."""
        ...
