"""What the fakes of providers with an API of their own share: a real HTTP server with scripted answers, which
records what it was asked and sees clients leave.
"""

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Self

from aiohttp import web


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scripted:
    """One scripted answer; `parts` and `usage` as the provider writes them, `usage` none: it never tells."""

    parts: Sequence[dict[str, Any]] = ()
    stop: str = ""
    usage: dict[str, Any] | None = None
    status: int = 200
    kind: str = ""  # the provider's word for an error
    message: str = "scripted error"
    details: Sequence[dict[str, Any]] = ()
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay_s: float = 0.0  # before the status line
    stall_after: int | None = None  # events after which a stream hangs until the client leaves
    drop_after: int | None = None  # events after which the connection is cut
    fail_after: int | None = None  # events after which an error comes in the stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Received:
    """What a client sent."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


class ProviderApi:
    """`async with FakeOfOne(reply, …) as api: api.url`; replies come in order, and the last one repeats."""

    def __init__(self, *replies: Scripted, key: str = "provider-key") -> None:
        self.replies = list(replies) or [self.usual()]
        self.key = key
        self.requests: list[Received] = []
        self.sent = 0  # events of streams
        self.left = asyncio.Event()  # a client went away before the end
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def body(self) -> dict[str, Any]:
        """The last body that came."""
        return self.requests[-1].body

    # -- what each provider does in its own way

    def usual(self) -> Scripted:
        raise NotImplementedError

    def routes(self, app: web.Application) -> None:
        raise NotImplementedError

    def refusal(self, request: Received) -> Scripted | None:
        """An error for what the provider's documentation does not allow."""
        raise NotImplementedError

    def error(self, reply: Scripted) -> dict[str, Any]:
        raise NotImplementedError

    def whole(self, request: Received, reply: Scripted) -> dict[str, Any]:
        raise NotImplementedError

    def events(self, request: Received, reply: Scripted) -> list[bytes]:
        raise NotImplementedError

    def streams(self, request: Received) -> bool:
        raise NotImplementedError

    def failure(self, reply: Scripted) -> bytes:
        """An error in a stream."""
        raise NotImplementedError

    # -- what they share

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 28)
        self.routes(app)
        # the handler is cancelled when its client leaves, as in real servers
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        received = Received(
            path=request.path,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
        )
        self.requests.append(received)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        reply = self.refusal(received) or reply
        try:
            await asyncio.sleep(reply.delay_s)
            if reply.status != 200:
                return web.json_response(self.error(reply), status=reply.status, headers=reply.headers)
            if not self.streams(received):
                return web.json_response(self.whole(received, reply))
            return await self._stream(request, received, reply)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left.set()
            raise

    async def _stream(self, request: web.Request, received: Received, reply: Scripted) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, event in enumerate(self.events(received, reply)):
            if number == reply.stall_after:
                await asyncio.sleep(60)
            if number == reply.drop_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == reply.fail_after:
                await response.write(self.failure(reply))
                break
            await response.write(event)
            self.sent += 1
        await response.write_eof()
        return response


def sse(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()
