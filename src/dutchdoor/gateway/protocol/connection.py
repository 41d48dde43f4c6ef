"""HTTP/1.1 from one client: requests one after the other, each answered whole or as a stream.

httptools parses; this file bounds what a client may send and how long it may take, answers pipelined requests
in their order, and holds a stream back while its client is slow. It knows no path and no meaning.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from dutchdoor.gateway.protocol.request import JSON, Handler, Request, Responder

LARGEST_BODY = 32 << 20  # bytes; room for a few images
MOST_HELD = 512 << 20  # bytes of the bodies of all requests that are there or on their way
SMALL = 1 << 20  # bytes of a body that is taken even then
LARGEST_HEAD = 64 << 10  # bytes of request line and headers
LARGEST_TARGET = 8 << 10  # bytes of path and query
MOST_HEADERS = 128
MOST_WAITING = 8  # pipelined requests that are read ahead
MOST_AT_ONCE = 1024  # pipelined requests that may come in one piece
HIGH_WATER = 64 << 10  # bytes that wait for a slow client before its stream is held back

HEAD_S = 20.0  # from the first byte of a request to the end of its headers
BODY_SILENCE_S = 30.0  # between two pieces of a body
REQUEST_S = 300.0  # from the first byte of a request to its last
KEPT_S = 75.0  # without a request on an open connection
LINGER_S = 2.0  # for a client that is still sending what was refused to read why
STALL_S = 60.0  # in which a client takes no byte of what waits for it

OFFERS = frozenset({b"upgrade", b"connection", b"http2-settings"})


class Connection(asyncio.Protocol):
    """One client's connection. `house` knows all connections, and the time."""

    def __init__(self, house: "House", loop: asyncio.AbstractEventLoop) -> None:
        self._house = house
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self.write: Callable[[bytes], object] = _nowhere  # the transport's own, as long as there is one
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, Responder]] = deque()
        self._serving: Responder | None = None
        self._task: asyncio.Task[None] | None = None
        self._paused = False  # whether reading is paused
        self.pressed = False  # whether the client is too slow
        self._drained: list[asyncio.Future[None]] = []
        self._refused = False  # what follows is not read any more
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._held = 0  # bytes of the bodies that are here
        self._head_size = 0
        self._began: float | None = None  # when the request that is being read began
        self._in_body = False
        self._reading = False  # whether a request has begun to come and is not whole
        self._bare = 0  # bytes that came since the last piece of a body and were none of it
        self._last = 0.0  # when something last came, or an answer ended
        self._stalled = (0.0, -1)  # since when this many bytes wait for the client

    # -- used by the house and the responder

    @property
    def date(self) -> bytes:
        return self._house.date

    @property
    def idle(self) -> bool:
        return self._serving is None and not self._waiting and not self._reading

    async def drain(self) -> None:
        if not self.pressed or self._transport is None:
            return
        waiter = self._loop.create_future()
        self._drained.append(waiter)
        await waiter

    def close(self) -> None:
        """Close when what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def finish(self) -> None:
        """No more requests: close now, or after the answer to what is under way or has begun to come."""
        if self.idle:
            self.close()
        elif self._serving is not None:
            self._serving.close_after()

    def cut(self) -> asyncio.Task[None] | None:
        """End the answer that is under way; returns its task."""
        if self._task is not None and self._serving is not None and not self._task.done():
            self._serving.cut = True
            self._task.cancel()
            return self._task
        return None

    def look_at_the_clock(self, now: float) -> None:
        """Close what has been silent for too long."""
        if self.pressed and self._transport is not None:
            waits = self._transport.get_write_buffer_size()
            if waits < self._stalled[1] or self._stalled[1] < 0:
                self._stalled = (now, waits)
            else:  # more of it is nothing that the client took
                self._stalled = (self._stalled[0], waits)
                if now - self._stalled[0] > STALL_S:
                    self.abort()
            return
        if self._began is None:
            if self.idle and now - self._last > KEPT_S:
                self.close()
        elif not self._in_body and now - self._began > HEAD_S:
            self._refuse(408, "The headers did not come in time.", "timeout")
        elif not self._paused and (now - self._began > REQUEST_S or now - self._last > BODY_SILENCE_S):
            self._refuse(408, "The body did not come in time.", "timeout")

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self.write = self._transport.write
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._last = self._loop.time()
        self._began = self._last  # a connection that says nothing has as long as slow headers
        self._house.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._last = self._loop.time()
        if self._began is None:
            self._began = self._last
        self._head_size += len(data)
        in_body, size = self._in_body, self._size
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(400, "What was sent is no HTTP/1.1 request.", "invalid_http")
            return
        if in_body and self._in_body:
            self._bare = self._bare + len(data) if size == self._size else 0
            if self._bare > LARGEST_HEAD:  # trailers, or a chunk's extension, without an end
                self._long_head()
        if not self._in_body and self._head_size > LARGEST_HEAD and self._began is not None:
            self._long_head()
        if len(self._waiting) >= MOST_WAITING and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _feed(self, data: bytes) -> None:
        while not self._refused:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:  # of another protocol, and need not be taken
                data = self._without_offer() + data[offer.args[0] :]

    def _without_offer(self) -> bytes:
        """The head of a request once more, for a parser that leaves its body to no other protocol."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("this is no proxy")
        kept = [pair for pair in self._headers if pair[0] not in OFFERS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self._headers):
            kept.append((b"connection", b"close"))
        first = b"%b %b HTTP/%b" % (method, self._target, self._parser.get_http_version().encode())
        self._parser = httptools.HttpRequestParser(self)
        return b"\r\n".join([first, *(b"%b: %b" % pair for pair in kept), b"", b""])

    def eof_received(self) -> bool:
        return False  # a client that stops sending has left

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self.write = _nowhere
        self._refused = True
        self._house.connections.discard(self)
        self._drop()
        self._wake()
        if self._serving is not None and not self._serving.ended:
            self._serving.left = True
            if self._task is not None:
                self._task.cancel()

    def pause_writing(self) -> None:
        self.pressed = True
        self._stalled = (self._loop.time(), -1)
        if self._serving is not None:
            self._serving.pressure(True)

    def resume_writing(self) -> None:
        self._wake()
        if self._serving is None:
            self._go_on()
        if self._serving is not None:
            self._serving.pressure(False)

    def _wake(self) -> None:
        self.pressed = False
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    # -- httptools

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._body = []
        self._size = 0
        self._bare = 0
        self._in_body = False
        self._reading = True
        if self._began is None:
            self._began = self._last

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > LARGEST_TARGET:
            self._refuse(414, f"The URL is longer than {LARGEST_TARGET} bytes.", "url_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:  # a trailer: who looks at headers must not be told otherwise behind the body
            return
        self._headers.append((name.lower(), value))
        if len(self._headers) > MOST_HEADERS or len(value) > LARGEST_HEAD:
            self._long_head()

    def on_headers_complete(self) -> None:
        self._in_body = True
        waits = False
        for name, value in self._headers:
            if name == b"content-length" and int(value) > LARGEST_BODY:
                self._too_large()
                return
            waits = waits or (name == b"expect" and value.lower() == b"100-continue")
        if waits and self._serving is None and self._parser.get_http_version() != "1.0":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._refused:
            return
        if self._size > LARGEST_BODY:
            self._too_large()
            return
        self._held += len(body)
        self._house.held += len(body)
        if self._house.held > MOST_HELD and self._size > SMALL:
            message = "Too many large requests are under way; try again later."
            self._refuse(503, message, "overloaded")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._refused or self._parser.should_upgrade():
            return
        self._began = None
        self._in_body = self._reading = False
        self._head_size = 0
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        method = self._parser.get_method()
        target = self._target if self._target.startswith(b"/") else _origin_form(self._target)
        request = Request(method, target, self._headers, body)
        responder = Responder(
            self,
            keep=self._parser.should_keep_alive() and not self._house.finishing,
            chunked=self._parser.get_http_version() != "1.0",
            no_body=method == b"HEAD",
        )
        if self._serving is None and not self.pressed:
            self._serve(request, responder)
        elif len(self._waiting) < MOST_AT_ONCE:
            self._waiting.append((request, responder))
        else:
            self._refuse(400, f"More than {MOST_AT_ONCE} requests came at once.", "too_many_requests")

    # -- requests, one after the other

    def _drop(self) -> None:
        """Forget what was read and is not served."""
        self._waiting.clear()
        self._body = []
        if self._serving is None:
            self._release(self._held)

    def _serve(self, request: Request, responder: Responder) -> None:
        self._serving = responder
        self._task = self._loop.create_task(self._run(request, responder))

    async def _run(self, request: Request, responder: Responder) -> None:
        try:
            await self._house.handler(request, responder)
        except asyncio.CancelledError:
            pass  # the client has left, or the server stops: what is owed has been booked on the way
        finally:
            self._release(len(request.body))
            self._next(responder)

    def _release(self, size: int) -> None:
        self._held -= size
        self._house.held -= size

    def _next(self, responder: Responder) -> None:
        self._serving = self._task = None
        self._last = self._loop.time()
        if self._transport is None or self._refused:
            self._release(self._held)
        if self._transport is None:
            return
        if not responder.ended:  # it broke in a way that cannot be told any more
            self.abort()
        elif not responder.keep:
            self._waiting.clear()
            self._refused = True
            self.close()
        elif self._waiting and not self.pressed:
            self._serve(*self._waiting.popleft())
        elif self._house.finishing and self.idle:
            self.close()
        self._read_on()

    def _go_on(self) -> None:
        """Serve what waited until the client took what had been answered."""
        if self._waiting:
            self._serve(*self._waiting.popleft())
        self._read_on()

    def _read_on(self) -> None:
        if self._paused and len(self._waiting) < MOST_WAITING and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _long_head(self) -> None:
        limits = f"{MOST_HEADERS} headers and {LARGEST_HEAD} bytes"
        self._refuse(431, f"The headers are more than {limits}.", "headers_too_large")

    def _too_large(self) -> None:
        self._refuse(413, f"The body is larger than {LARGEST_BODY} bytes.", "body_too_large")

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer what cannot be read, after what was asked before it, and close: where the next request
        begins is not known any more.
        """
        if self._refused or self._transport is None:
            return
        self._refused = True
        request = Request(b"", self._target, self._headers, b"") if self._target else None
        responder = Responder(self, keep=False, chunked=True, no_body=False)
        body = self._house.handler.refusal(request, status, message, code)
        if self._serving is not None:  # its own answer comes first; this one is not told
            self._serving.close_after()
            self._drop()
            return
        unanswered = bool(self._waiting)
        self._drop()
        if unanswered:  # it takes no answers: one now would be read as that of another request
            self.close()
            return
        responder.send(status, body, [JSON])
        self._linger()

    def _linger(self) -> None:
        """Close once the client has had time to read the answer: a close with bytes unread would reset the
        connection, and the answer with it.
        """
        transport = self._transport
        if transport is None or not transport.can_write_eof():
            self.close()
            return
        transport.write_eof()
        self._loop.call_later(LINGER_S, transport.close)


def _origin_form(target: bytes) -> bytes:
    """`http://host/path` as `/path`, as a client writes it that takes us for a proxy."""
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        return target
    path = rest.find(b"/")
    return rest[path:] if path >= 0 else b"/"


def _nowhere(_: bytes) -> None:
    """The client has left."""


class House(Protocol):
    """What a connection needs of its server."""

    connections: set[Connection]
    held: int  # bytes of bodies
    handler: Handler
    date: bytes
    finishing: bool
