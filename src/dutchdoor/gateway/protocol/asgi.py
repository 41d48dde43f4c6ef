"""An ASGI application behind our own connections: for everything that is not a model request."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from dutchdoor.gateway.protocol.request import Request, Responder

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def run_app(app: App, request: Request, responder: Responder, more: list[tuple[bytes, bytes]]) -> None:
    """Answer one request with an ASGI application, and `more` headers. A client that leaves cancels it."""
    path, _, query = request.target.partition(b"?")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method.decode("latin-1"),
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": request.headers,
        "client": None,
        "server": None,
    }
    bodies = [request.body]

    async def receive() -> Event:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        await asyncio.get_running_loop().create_future()  # until the client leaves, which cancels us
        raise AssertionError

    answer = _Answer(responder, more)
    await app(scope, receive, answer.send)


class _Answer:
    """The two events of an ASGI answer, as a whole answer where it comes in one piece."""

    def __init__(self, responder: Responder, more: list[tuple[bytes, bytes]]) -> None:
        self._responder = responder
        self._more = more
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            headers = [(bytes(name).lower(), bytes(value)) for name, value in event.get("headers", ())]
            kept = [pair for pair in headers if pair[0] != b"content-length"]
            self._head = (event["status"], kept + self._more)
            return
        body, more = event.get("body", b""), event.get("more_body", False)
        if self._head is not None and not more:
            status, headers = self._head
            self._head = None
            self._responder.send(status, body, headers)
            return
        if self._head is not None:
            self._responder.start(*self._head)
            self._head = None
        if more:
            self._responder.write(body)
            await self._responder.drain()
        else:
            self._responder.end(body)
