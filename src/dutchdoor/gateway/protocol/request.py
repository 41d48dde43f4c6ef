"""One request from a client, and the way back."""

import http
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

Headers = Iterable[tuple[bytes, bytes]]

STATUS = {each.value: b"HTTP/1.1 %d %s\r\n" % (each.value, each.phrase.encode()) for each in http.HTTPStatus}
JSON = (b"content-type", b"application/json")


class Request:
    """One request, whole. Header names are lower case."""

    __slots__ = ("body", "headers", "method", "target")

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.method = method
        self.target = target  # path and query, as they were sent
        self.headers = headers
        self.body = body

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    def header(self, name: bytes) -> bytes | None:
        """The first of a name (lower case), or null."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Handler(Protocol):
    """Answers requests; whoever answers must end the answer."""

    def __call__(self, request: Request, responder: "Responder") -> Coroutine[Any, Any, None]: ...

    def refusal(self, request: Request | None, status: int, message: str, code: str) -> bytes:
        """The body of an error that the protocol itself tells, in the dialect of the path."""
        ...


class Responder:
    """The way back of one request. `left`: the client is gone; `cut`: the server stops before the end."""

    __slots__ = ("_chunked", "_connection", "_hold", "_keep", "_no_body", "cut", "ended", "left", "started")

    def __init__(self, connection: "Wire", *, keep: bool, chunked: bool, no_body: bool) -> None:
        self._connection = connection
        self._keep = keep
        self._chunked = chunked  # else the end of the connection is the end of the body
        self._no_body = no_body
        self._hold: Callable[[bool], None] | None = None
        self.left = False
        self.cut = False
        self.started = False
        self.ended = False

    def send(self, status: int, body: bytes, headers: Headers = ()) -> None:
        """A whole answer."""
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
        self._connection.write(head if self._no_body else head + body)
        self.ended = True

    def start(self, status: int, headers: Headers) -> None:
        """The head of a stream."""
        coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._keep = self._keep and self._chunked
        self._connection.write(self._head(status, headers, coding))

    def write(self, data: bytes) -> None:
        """A piece of a stream; never waits, see `drain` and `on_pressure`."""
        if not data or self._no_body:
            return
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self, data: bytes = b"") -> None:
        """The last piece and the end of a stream."""
        if self.ended:
            return
        self.ended = True
        if self._no_body:
            return
        if not self._chunked:
            self._connection.write(data)
        elif data:
            self._connection.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        else:
            self._connection.write(b"0\r\n\r\n")

    async def drain(self) -> None:
        """Return when the client has taken enough that more may be written."""
        await self._connection.drain()

    def on_pressure(self, hold: Callable[[bool], None]) -> None:
        """Call `hold(True)` when the client is too slow and `hold(False)` when it has caught up."""
        self._hold = hold
        if self._connection.pressed:
            hold(True)

    def pressure(self, pressed: bool) -> None:
        """Called by the connection."""
        if self._hold is not None and not self.ended:
            self._hold(pressed)

    @property
    def keep(self) -> bool:
        """Whether the connection can serve another request after this one."""
        return self._keep and self.ended

    def close_after(self) -> None:
        """Close the connection when this answer has come to its end."""
        self._keep = False

    def _head(self, status: int, headers: Headers, framing: bytes) -> bytes:
        self.started = True
        first = STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status
        end = b"\r\n" if self._keep else b"connection: close\r\n\r\n"
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return b"%b%b%b%b%b" % (first, self._connection.date, framing, lines, end)


class Wire(Protocol):
    """What an answer needs of its connection."""

    write: Callable[[bytes], object]

    @property
    def date(self) -> bytes: ...

    @property
    def pressed(self) -> bool:
        """Whether the client is too slow."""
        ...

    async def drain(self) -> None: ...
