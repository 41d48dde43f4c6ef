"""HTTP/1.1 to one upstream: kept connections, one request at a time on each, bodies as they come.

httptools parses; this file keeps connections, times them and hands bytes on. Bodies are decoded from their
transfer coding and otherwise untouched. Nothing is retried but a request that a kept connection lost before
a byte of an answer: on a fresh one the upstream has got it, and would be paid twice.
"""

import asyncio
import functools
import ssl
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools

from dutchdoor.gateway.protocol.answer import (
    Answer,
    CannotConnectError,
    LostError,
    SilentError,
    UpstreamError,
)

CONNECT_S = 5.0
KEPT_S = 50.0  # an idle connection is not used again after this; servers commonly close theirs after 60
MOST_KEPT = 1024  # idle connections
MOST_AHEAD = 1 << 18  # bytes that are read ahead while nobody takes them
MOST_HEADERS = 1 << 16  # bytes of status line and headers
SWEEP_S = 0.25  # how often silence is looked for


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """One for all origins: making one takes 15 ms, in which nothing else is served."""
    return ssl.create_default_context()


class Origin:
    """One scheme, host and port with its connections. `idle_s`: the longest silence of an upstream that was
    asked.
    """

    def __init__(self, url: str, *, idle_s: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.idle_s = idle_s
        self._host = parts.hostname
        self._port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._ssl = _ssl_context() if parts.scheme == "https" else None
        self._kept: deque[tuple[_Connection, float]] = deque()
        self._asked: set[_Connection] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, request: bytes, deadline: float) -> Answer:
        """Send a whole request and return when the headers of its answer are there; raises UpstreamError.
        `deadline` is on the loop's clock and ends the body as well.
        """
        if self._sweeping is None:
            self._sweep_later()
        connection = self._reuse()
        while True:
            if connection is None:
                connection = await self._connect(deadline)
            self._asked.add(connection)
            try:
                return await connection.ask(request, deadline)
            except LostError as error:
                connection.abort()
                if not error.untouched:
                    raise
                connection = None
            except BaseException:
                connection.abort()
                raise

    def _reuse(self) -> "_Connection | None":
        now = asyncio.get_running_loop().time()
        while self._kept:
            connection, since = self._kept.pop()  # the latest: the others may then be closed
            if connection.is_open and now - since < KEPT_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, deadline: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        left = min(CONNECT_S, deadline - loop.time())
        try:
            async with asyncio.timeout(left):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop), self._host, self._port, ssl=self._ssl
                )
        except TimeoutError as error:
            raise CannotConnectError("no connection in time") from error
        except (OSError, ssl.SSLError) as error:
            raise CannotConnectError(f"cannot connect: {type(error).__name__}") from error
        return connection

    def keep(self, connection: "_Connection", now: float) -> None:
        """Take a connection back whose answer has come to its end."""
        self._asked.discard(connection)
        if self._closed or len(self._kept) >= MOST_KEPT:
            connection.abort()
        else:
            self._kept.append((connection, now))

    def forget(self, connection: "_Connection") -> None:
        """It is closed."""
        self._asked.discard(connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._asked):
            connection.look_at_the_clock(now, self.idle_s)
        while self._kept and now - self._kept[0][1] > KEPT_S:
            self._kept.popleft()[0].abort()
        self._sweeping = None
        if (self._asked or self._kept) and not self._closed:
            self._sweep_later()

    def _sweep_later(self) -> None:
        after = min(SWEEP_S, self.idle_s / 4)
        self._sweeping = asyncio.get_running_loop().call_later(after, self._sweep)

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for connection, _ in self._kept:
            connection.abort()
        self._kept.clear()
        for connection in list(self._asked):
            connection.abort()


class _Connection(asyncio.Protocol):
    __slots__ = (
        "_answer",
        "_body",
        "_deadline",
        "_header_bytes",
        "_heads",
        "_held",
        "_junk",
        "_keep",
        "_last",
        "_loop",
        "_origin",
        "_parser",
        "_transport",
        "_used",
    )

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self._origin = origin
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._heads: asyncio.Future[Answer] | None = None  # who waits for the headers
        self._body: list[bytes] = []  # of one read
        self._header_bytes = 0
        self._held = False
        self._keep = False  # whether the upstream keeps the connection after this answer
        self._junk = False  # something came that no request asked for
        self._used = False  # whether it has served a request before
        self._last = 0.0
        self._deadline = 0.0

    # -- used by the origin and the answer

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, deadline: float) -> "asyncio.Future[Answer]":
        self._answer = Answer(self)
        self._heads = heads = self._loop.create_future()
        self._last = self._loop.time()
        self._deadline = deadline
        if self._transport is None:
            raise LostError("the connection was closed", untouched=self._used)
        self._transport.write(request)
        return heads

    def hold(self, held: bool) -> None:
        if held is self._held or self._transport is None or self._transport.is_closing():
            return
        self._held = held
        if held:
            self._transport.pause_reading()
        else:
            self._last = self._loop.time()
            self._transport.resume_reading()

    def abort(self) -> None:
        self._fail(LostError("the connection was cut"))
        if self._transport is not None:
            self._transport.abort()

    def look_at_the_clock(self, now: float, idle_s: float) -> None:
        if now > self._deadline:
            self._fail(SilentError("the deadline has passed"))
        elif not self._held and now - self._last > idle_s:
            self._fail(SilentError("no answer in time" if self._heads else "the answer stalled"))
        else:
            return
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: UpstreamError) -> None:
        answer, heads = self._answer, self._heads
        self._answer = self._heads = None
        if heads is not None:
            if not heads.done():
                heads.set_exception(error)
        elif answer is not None:
            answer.ended(error)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:  # nobody asked: whatever it is, it belongs to no request
            self.abort()
            return
        self._last = self._loop.time()
        if self._heads is not None:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(LostError(f"what came is no HTTP: {type(error).__name__}"))
            self.abort()
            return
        if self._heads is not None and self._header_bytes > MOST_HEADERS:
            self._fail(LostError("headers without an end"))
            self.abort()
            return
        if self._body:
            body, self._body = self._body, []
            answer.came(body[0] if len(body) == 1 else b"".join(body))
        if self._answer is None:
            self._finished(answer)
        elif answer.ahead > MOST_AHEAD:
            self.hold(True)

    def _finished(self, answer: Answer) -> None:
        """The answer is whole: the connection may serve the next request."""
        self._used = True
        self._header_bytes = 0
        self.hold(False)
        answer.ended()
        if self._keep and not self._junk:
            self._origin.keep(self, self._last)
        elif self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        answer = self._answer
        # a body without a length ends with the connection; anything else is cut short
        if answer is not None and self._heads is None and self._ends_with_connection(answer):
            self._answer = None
            answer.ended()
        return False

    @staticmethod
    def _ends_with_connection(answer: Answer) -> bool:
        return b"content-length" not in answer.headers and b"chunked" not in answer.headers.get(
            b"transfer-encoding", b""
        )

    def connection_lost(self, _: Exception | None) -> None:
        untouched = self._used and self._heads is not None and self._header_bytes == 0
        self._fail(LostError("the connection broke", untouched=untouched))
        self._transport = None
        self._origin.forget(self)

    # -- httptools

    def on_message_begin(self) -> None:
        self._junk = self._answer is None

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._heads is not None and self._answer is not None:  # else it is a trailer
            self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        answer, heads = self._answer, self._heads
        if answer is None or heads is None:
            return
        if status < 200:  # a notice before the answer
            answer.headers.clear()
            return
        answer.status = status
        self._heads = None
        if not heads.done():
            heads.set_result(answer)

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._heads is None:
            self._answer = None
            self._keep = self._parser.should_keep_alive()


def header_safe(value: str) -> bytes:
    """A header's value as bytes; raises ValueError where it could end the header."""
    encoded = value.encode("latin-1")
    if b"\r" in encoded or b"\n" in encoded or b"\0" in encoded:
        raise ValueError("a header cannot hold a line break")
    return encoded
