"""The answer of an upstream to one request, as it comes, and what can go wrong on the way there."""

import asyncio
from collections.abc import Callable
from typing import Protocol


# UpstreamError
# ├── CannotConnectError
# ├── SilentError           nothing came for too long, or the deadline has passed
# └── LostError             the connection broke, or what came is no HTTP
class UpstreamError(Exception):
    """What went wrong on the way to an upstream. The message is for logs and names no address."""


class CannotConnectError(UpstreamError):
    """There is no connection."""


class SilentError(UpstreamError):
    """Nothing came for too long."""


class LostError(UpstreamError):
    """The connection broke. `untouched`: it had been kept, and no byte of an answer had come."""

    def __init__(self, message: str, *, untouched: bool = False) -> None:
        super().__init__(message)
        self.untouched = untouched


class Answer:
    """The answer to one request: status and headers are there, the body comes. `headers` have lower-case
    names, of which the last counts.
    """

    __slots__ = (
        "_connection",
        "_end",
        "_error",
        "_held",
        "_sink",
        "_stopped",
        "_waiter",
        "ahead",
        "headers",
        "status",
    )

    def __init__(self, connection: "Line") -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._connection: Line | None = connection
        self._held: list[bytes] = []
        self.ahead = 0  # bytes that nobody has taken yet
        self._sink: Callable[[bytes], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._end = False
        self._stopped = False
        self._error: UpstreamError | None = None

    @property
    def finished(self) -> bool:
        """Whether the body has come to its end, and nothing of it waits."""
        return self._end and not self._held

    async def read(self, most: int) -> bytes:
        """The whole body; raises UpstreamError, also for one of more than `most` bytes."""
        while not self._end:
            if self.ahead > most:
                self.close()
                raise LostError("an answer without an end")
            await self._more()
        self._raise()
        if self.ahead > most:
            raise LostError("an answer without an end")
        return self._take()

    async def piece(self) -> bytes:
        """What has come of the body since, waiting for something; empty at its end. Raises UpstreamError."""
        while not self._held and not self._end:
            await self._more()
        if not self._held:
            self._raise()
        return self._take()

    async def pump(self, sink: Callable[[bytes], None]) -> None:
        """Give each piece to `sink`, which never raises, as it comes; returns at the end of the body or after
        `stop`, raises UpstreamError.
        """
        if self._held:
            sink(self._take())
        self._sink = sink
        try:
            while not (self._end or self._stopped):
                await self._more()
        finally:
            self._sink = None
        if not self._stopped:
            self._raise()

    def stop(self) -> None:
        """End the pump: what comes from now on is kept for `piece`."""
        self._stopped = True
        self._wake()

    def hold(self, held: bool) -> None:
        """Stop reading, or go on; what the upstream sends then waits at its side."""
        if self._connection is not None:
            self._connection.hold(held)

    def close(self) -> None:
        """Cut the connection where the body has not come to its end, which stops the upstream."""
        if self._connection is not None:
            self._connection.abort()

    async def _more(self) -> None:
        if self._connection is not None and not self._sink:
            self._connection.hold(False)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take(self) -> bytes:
        held, self._held, self.ahead = self._held, [], 0
        return held[0] if len(held) == 1 else b"".join(held)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # -- called by the connection

    def came(self, data: bytes) -> None:
        """A piece of the body."""
        if self._sink is not None:
            self._sink(data)
            return
        self._held.append(data)
        self.ahead += len(data)
        self._wake()

    def ended(self, error: UpstreamError | None = None) -> None:
        self._end = True
        self._error = error
        self._connection = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Line(Protocol):
    """What an answer needs of its connection."""

    def hold(self, held: bool) -> None: ...

    def abort(self) -> None: ...
