"""The ASGI application: which path leads where, start and end.

The chat path is bare ASGI; pages of other rooms are given in as an ASGI application of their own.
"""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from dutchdoor.core import DutchdoorError
from dutchdoor.gateway import log
from dutchdoor.gateway.asgi import App, Receive, Scope, Send, respond, respond_error
from dutchdoor.gateway.chat import Exchange, authenticate
from dutchdoor.gateway.errors import ApiError, unknown_model
from dutchdoor.gateway.routing import Route
from dutchdoor.gateway.targets import Target
from dutchdoor.gateway.unbooked import Unbooked
from dutchdoor.ledger.store import Ledger

CLOSING_S = 10.0  # how long answers that were cut have to be booked before the ledger is closed


class Gateway:
    """An ASGI application over a ledger and routes. It owns both: closing it closes engines, connections
    and ledger.

    `pages` answers every path that is not the API's.
    """

    def __init__(self, ledger: Ledger, routes: Iterable[Route], *, pages: App | None = None) -> None:
        self.ledger = ledger
        self.routes = {route.model: route for route in routes}
        self.ready = False
        self.draining = False
        self.closed = False
        self._unbooked = Unbooked(ledger)
        self._under_way: set[asyncio.Task[None]] = set()
        self._pages = pages

    @property
    def targets(self) -> list[Target]:
        """Every target of every route, once."""
        return list({id(each): each for route in self.routes.values() for each in route.targets}.values())

    async def start(self) -> None:
        """Close what dead servers left open; from then on requests are admitted."""
        interrupted = await self.ledger.begin()
        if interrupted:
            log.write(log.faults, logging.WARNING, "interrupted", requests=len(interrupted), ids=interrupted)
        self.ready = True

    async def close(self) -> None:
        """Close every target once, then the ledger; closing again does nothing."""
        self.ready = False
        if self.closed:
            return
        self.closed = True
        if self._under_way:  # cut by the server, and not booked yet
            await asyncio.wait(self._under_way, timeout=CLOSING_S)
        for target in self.targets:
            try:
                await target.close()
            except DutchdoorError as error:
                log.write(log.faults, logging.ERROR, "close", target=target.name, message=error.message)
        await self._unbooked.close()
        await self.ledger.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # a websocket: nothing of ours speaks it
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        try:
            if path == "/v1/chat/completions":
                _only(method, "POST")
                await self._chat(scope, receive, send)
            elif path == "/v1/models" or path.startswith("/v1/models/"):
                _only(method, "GET")
                await self._models(scope, send)
            elif path in ("/healthz", "/readyz"):
                _only(method, "GET", "HEAD")
                well = path == "/healthz" or (self.ready and not self.draining)
                await respond(send, 200 if well else 503, b'{"ok":true}' if well else b'{"ok":false}')
            elif self._pages is not None and not path.startswith("/v1/"):
                await self._pages(scope, receive, send)
            else:
                raise ApiError(404, f"Invalid URL ({method} {path[:200]})", code="unknown_url")
        except ApiError as error:
            await respond_error(send, error)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - the edge: a fault of ours
            log.faults.exception('{"event": "fault"}')
            await respond_error(
                send, ApiError(500, "A fault in the gateway.", type="server_error", code="fault")
            )

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            await Exchange(self.ledger, self._unbooked, self.routes, scope, receive, send).run()
        finally:
            self._under_way.discard(task)

    async def _models(self, scope: Scope, send: Send) -> None:
        await authenticate(scope, self.ledger)
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "dutchdoor", "dutchdoor": route.about}
            for name, route in self.routes.items()
        ]
        wanted = scope["path"].removeprefix("/v1/models").removeprefix("/")
        if not wanted:
            await respond(send, 200, msgspec.json.encode({"object": "list", "data": rows}))
            return
        found = [row for row in rows if row["id"] == wanted]
        if not found:
            raise unknown_model(wanted)
        await respond(send, 200, msgspec.json.encode(found[0]))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                try:
                    await self.start()
                except DutchdoorError as error:
                    await send({"type": "lifespan.startup.failed", "message": error.message})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        names = ", ".join(allowed)
        raise ApiError(
            405,
            f"Not allowed to {method} here; use {names}.",
            code="method_not_allowed",
            headers=((b"allow", names.encode()),),
        )
