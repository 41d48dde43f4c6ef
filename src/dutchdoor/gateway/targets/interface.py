"""What can answer a request: the seam between the way of a request and engines or upstreams.

A target says what it cannot do before it is asked, how many tokens a request can come to at most, and
answers whole or as a stream of events. It knows neither keys nor budgets nor dialects.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from dutchdoor.engines.interface import Usage
from dutchdoor.gateway.call import Call
from dutchdoor.gateway.tariff import Tariff

DONE = b"data: [DONE]\n\n"

Headers = tuple[tuple[bytes, bytes], ...]


class Outlet(Protocol):
    """Where the pieces of a stream go: a client's connection, or a translation in front of it."""

    def write(self, data: bytes) -> None:
        """Pass whole events on; never waits."""
        ...

    async def drain(self) -> None:
        """Return when the client has taken enough that more may be written."""
        ...

    def on_pressure(self, hold: Callable[[bool], None]) -> None:
        """Call `hold(True)` when the client is too slow, `hold(False)` when it has caught up: whoever writes
        without draining must stop reading in between.
        """
        ...


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in one piece. `said` is the bytes of text in it, where no usage tells the tokens."""

    body: bytes
    usage: Usage | None
    said: int = 0
    headers: Headers = ()


class Stream(Protocol):
    """An answer in pieces of whole events, of which the first has come."""

    @property
    def usage(self) -> Usage | None:
        """The latest that was told."""
        ...

    @property
    def relayed(self) -> int:
        """Tokens passed on, counted by their pieces, where no usage is told."""
        ...

    @property
    def tail(self) -> bytes:
        """The end marker, which is sent when all is settled."""
        ...

    @property
    def headers(self) -> Headers:
        """What a client should see of an upstream's headers."""
        ...

    async def relay(self, out: Outlet) -> None:
        """Write everything before the end marker; raises BrokenStreamError where it does not come to its
        end.
        """
        ...

    async def last_words(self) -> None:
        """The client has left: wait a moment for the usage, if it may still come."""
        ...

    async def close(self) -> None:
        """Stop whoever makes it."""
        ...


class Target(Protocol):
    """One place that serves a model. `family` is the one whose budget it draws on, if any."""

    name: str
    price: Tariff  # null: unknown
    family: str | None

    def check(self, call: Call) -> None:
        """Raises ApiError, naming the parameter, where it cannot do what is asked."""
        ...

    def bound(self, call: Call) -> tuple[int, int]:
        """The most input and output tokens that the request can come to here."""
        ...

    async def answer(self, call: Call) -> Whole | Stream:
        """Raises TargetError where another target may be asked (UnableError where this one cannot do it),
        ApiError where the request itself is refused.
        """
        ...

    async def close(self) -> None: ...
