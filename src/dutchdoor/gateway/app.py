"""The gateway: which path leads where, what is served, start and end.

Model requests go their own way (`exchange`); everything else is answered by ASGI applications, which are made
when they are first asked for.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

from dutchdoor.core import DutchdoorError
from dutchdoor.gateway import log
from dutchdoor.gateway.dialects.interface import Dialect
from dutchdoor.gateway.dialects.registry import DIALECTS
from dutchdoor.gateway.errors import ApiError
from dutchdoor.gateway.exchange import Exchange
from dutchdoor.gateway.limits.interface import Limits
from dutchdoor.gateway.limits.memory import MemoryLimits
from dutchdoor.gateway.operation import Operation
from dutchdoor.gateway.protocol.asgi import App, run_app
from dutchdoor.gateway.protocol.request import JSON, Request, Responder
from dutchdoor.gateway.record import Observer
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.targets.health import Breaker, Tries
from dutchdoor.gateway.targets.interface import Target
from dutchdoor.gateway.unbooked import Unbooked
from dutchdoor.ledger.keys import new_request
from dutchdoor.ledger.store import Ledger

MESSAGES = b"/v1/messages"
CLOSING_S = 10.0  # how long answers that were cut have to be booked before the ledger is closed


class Generation:
    """The routes between two swaps, the requests that go by them, and the targets that end with them."""

    __slots__ = ("retired", "routes", "tries", "users")

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self.routes = routes
        self.tries = {name: Tries() for name in routes}
        self.users = 0
        self.retired: tuple[Target, ...] = ()


class Gateway:
    """Handles requests over a ledger and routes. It owns both: closing it closes engines, connections, limits
    and ledger.

    `pages` answers every path that is not the API's.
    """

    def __init__(
        self,
        ledger: Ledger,
        routes: Iterable[Route],
        *,
        limits: Limits | None = None,
        observers: Sequence[Observer] = (),
        pages: App | None = None,
    ) -> None:
        self.ledger = ledger
        self.limits = limits or MemoryLimits()
        self.observers: list[Observer] = [log.RequestLog(), *observers]
        self.unbooked = Unbooked(ledger)
        self.operation: Operation | None = None  # what an admin may ask of the process, if it says so
        self.ready = False
        self.draining = False
        self.closed = False
        self.under_way = 0  # model requests
        self._quiet = asyncio.Event()
        self._generations = deque([Generation({route.model: route for route in routes})])
        self._breakers: dict[Target, Breaker] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._pages = pages
        self._off_path: App | None = None

    # -- what is served

    @property
    def routes(self) -> Mapping[str, Route]:
        """By public name."""
        return self._generations[-1].routes

    @property
    def targets(self) -> list[Target]:
        """Every target of every route, once."""
        return list({each: None for route in self.routes.values() for each in route.targets})

    def swap(self, routes: Mapping[str, Route], retired: Iterable[Target] = ()) -> None:
        """Serve other routes from the next request on. Those under way go on by the old ones, and a retired
        target is closed when the last of them has ended.
        """
        self._generations[-1].retired = tuple(retired)
        self._generations.append(Generation(dict(routes)))
        self._retire()

    def enter(self) -> Generation:
        """The present routes, kept until `leave`."""
        generation = self._generations[-1]
        generation.users += 1
        self.under_way += 1
        return generation

    def leave(self, generation: Generation) -> None:
        """A request has ended."""
        self.under_way -= 1
        if self.closed and not self.under_way:
            self._quiet.set()
        generation.users -= 1
        if not generation.users and generation is not self._generations[-1]:
            self._retire()

    def _retire(self) -> None:
        while len(self._generations) > 1 and not self._generations[0].users:
            for target in self._generations.popleft().retired:
                self._breakers.pop(target, None)
                task = asyncio.ensure_future(_close(target))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def breaker_of(self, target: Target) -> Breaker:
        """How a target has done lately."""
        breaker = self._breakers.get(target)
        if breaker is None:
            breaker = self._breakers[target] = Breaker()
        return breaker

    # -- start and end

    async def start(self) -> None:
        """Close what dead servers left open; from then on requests are admitted."""
        interrupted = await self.ledger.begin()
        if interrupted:
            log.write(log.faults, logging.WARNING, "interrupted", requests=len(interrupted), ids=interrupted)
        self.ready = True

    async def close(self) -> None:
        """Close every target once, then limits and ledger; closing again does nothing."""
        self.ready = False
        if self.closed:
            return
        self.closed = True
        if self.under_way:  # cut, and not booked yet
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), CLOSING_S)
        retired = [each for generation in self._generations for each in generation.retired]
        for target in dict.fromkeys((*self.targets, *retired)):
            await _close(target)
        if self._closing:
            await asyncio.wait(self._closing)
        await self.unbooked.close()
        await self.limits.close()
        for observer in self.observers:
            observer.close()
        await self.ledger.close()

    # -- requests

    def __call__(self, request: Request, responder: Responder) -> Coroutine[Any, Any, None]:
        dialect = DIALECTS.get(request.path)
        if dialect is not None and request.method == b"POST":
            return Exchange(self, dialect, request, responder).run()
        return self._elsewhere(dialect, request, responder)

    async def _elsewhere(self, dialect: Dialect | None, request: Request, responder: Responder) -> None:
        if dialect is not None:
            error = _not_allowed(request.method, b"POST")
            responder.send(error.status, dialect.error(error), [JSON, *error.headers])
            return
        ids = [(b"x-request-id", new_request().encode())]
        if self._off_path is None:
            from dutchdoor.gateway.admin import admin_app  # a framework that the hot path does not need

            self._off_path = admin_app(self, pages=self._pages)
        if request.path.startswith(MESSAGES):  # such as `count_tokens`: told as its client understands it
            error = ApiError(404, "There is no such path here.", code="unknown_url")
            responder.send(404, DIALECTS[MESSAGES].error(error), [JSON, *ids])
            return
        try:
            await run_app(self._off_path, request, responder, ids)
        except Exception:  # noqa: BLE001 - the edge: a fault of ours
            log.faults.exception('{"event": "fault"}')
            if not responder.started:
                fault = ApiError(500, "A fault in the gateway.", type="server_error", code="fault")
                responder.send(fault.status, fault.body(), [JSON, *ids])

    def refusal(self, request: Request | None, status: int, message: str, code: str) -> bytes:
        """An error of the protocol in the dialect of the path."""
        error = ApiError(status, message, code=code)
        dialect = None if request is None else DIALECTS.get(request.path)
        return error.body() if dialect is None else dialect.error(error)


async def _close(target: Target) -> None:
    try:
        await target.close()
    except DutchdoorError as error:
        log.write(log.faults, logging.ERROR, "close", target=target.name, message=error.message)


def _not_allowed(method: bytes, allowed: bytes) -> ApiError:
    return ApiError(
        405,
        f"Not allowed to {method.decode('latin-1')[:20]} here; use {allowed.decode()}.",
        code="method_not_allowed",
        headers=((b"allow", allowed),),
    )
