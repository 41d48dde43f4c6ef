"""Everything that is not a model request: health, numbers, models, a key's own usage, and the admin's calls.

A kept framework, off the hot path: it is imported when the first such request comes. A key is read anew for
each request here, since nothing else would notice that it was revoked.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from dutchdoor.core import DocumentError, DutchdoorError, EngineError, LedgerError, UsageError
from dutchdoor.gateway import log
from dutchdoor.gateway.errors import ApiError, unknown_model, wrong_key
from dutchdoor.gateway.operation import Operation
from dutchdoor.gateway.protocol.asgi import App
from dutchdoor.ledger.bill import month_bounds
from dutchdoor.ledger.keys import Key, Per, now
from dutchdoor.ledger.prices import nanodollars
from dutchdoor.ledger.store import Balance
from dutchdoor.ledger.usage import read_usage_of

if TYPE_CHECKING:
    from dutchdoor.gateway.app import Gateway

T = TypeVar("T")
READY_S = 2.0  # how long the ledger may take to prove that it can be written
PROVEN_S = 1.0  # for how long the proof holds: who asks all the time must not keep the ledger busy
SWITCH_S = 30.0  # how long the workers have to switch to a new route
Answer = Callable[[Request], Awaitable[Response]]


class RouteBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `PUT /admin/routes/NAME` takes: targets in order, or by weight."""

    to: list[str] | dict[str, float]
    new: bool = False


class KeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `POST /admin/keys` takes; `budget` in USD a period."""

    name: str
    budget: str | float | None = None
    per: Per = "total"
    rpm: int | None = None
    tpm: int | None = None
    team: str | None = None
    admin: bool = False


def admin_app(gateway: "Gateway", *, pages: App | None = None) -> App:
    """The application; `pages` answers what is not under `/v1` and has no path of its own here."""
    desk = Desk(gateway)
    office = Office(gateway, desk)
    routes: list[Any] = [
        Route("/healthz", desk.health),
        Route("/readyz", desk.ready),
        Route("/metrics", office.metrics),
        Route("/v1/models", desk.models),
        Route("/v1/models/{name:path}", desk.model),
        Route("/v1/usage", desk.usage),
        Route("/admin/routes", office.guarded(office.routes)),
        Route("/admin/routes/{name:path}", office.guarded(office.set_route), methods=["PUT"]),
        Route("/admin/reload", office.guarded(office.reload), methods=["POST"]),
        Route("/admin/keys", office.guarded(office.keys), methods=["GET", "POST"]),
        Route("/admin/keys/{id}", office.guarded(office.revoke), methods=["DELETE"]),
        Route("/admin/keys/{id}/rotate", office.guarded(office.rotate), methods=["POST"]),
    ]
    if pages is not None:
        routes.append(Mount("/", pages))
    handlers: dict[Any, Any] = {
        ApiError: _api_error,
        HTTPException: _http_error,
        DutchdoorError: _our_error,
        Exception: _fault,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # it would lead to whatever host the client names
    return app


class Desk:
    """What anyone, or anyone with a key, may ask."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._proven: tuple[float, bool] = (float("-inf"), False)  # when, and whether the ledger was written
        self._proving = asyncio.Lock()

    async def health(self, _: Request) -> Response:
        """200 while the process lives."""
        return _json({"ok": True})

    async def ready(self, _: Request) -> Response:
        """200 while requests are taken: it has started, is not ending, and the ledger can be written."""
        ready = self._gateway.ready and not self._gateway.draining and await self._ledger_can_be_written()
        return _json({"ok": ready}, 200 if ready else 503)

    async def models(self, request: Request) -> Response:
        await self.key_of(request)
        return _json({"object": "list", "data": [self._row(name) for name in self._gateway.routes]})

    async def model(self, request: Request) -> Response:
        await self.key_of(request)
        name = request.path_params["name"]
        if name not in self._gateway.routes:
            raise unknown_model(name)
        return _json(self._row(name))

    async def usage(self, request: Request) -> Response:
        """What the key itself used in a month, and what it may still spend."""
        key = await self.key_of(request)
        moment = now()
        month = request.query_params.get("month") or f"{moment:%Y-%m}"
        since, until = month_bounds(month)
        ledger = self._gateway.ledger
        return _json(await ledger.read(lambda db: read_usage_of(db, key.id, since, until, moment)))

    async def key_of(self, request: Request) -> Key:
        """The living key of a request, read anew; raises ApiError 401."""
        secret = _secret(request)
        key = await self._gateway.ledger.find_key(secret, fresh=True) if secret else None
        if key is None:
            raise wrong_key()
        return key

    def _row(self, name: str) -> dict[str, Any]:
        about = self._gateway.routes[name].about
        return {"id": name, "object": "model", "created": 0, "owned_by": "dutchdoor", "dutchdoor": about}

    async def _ledger_can_be_written(self) -> bool:
        async with self._proving:
            at, proven = self._proven
            if time.monotonic() - at > PROVEN_S:
                try:
                    await asyncio.wait_for(self._gateway.ledger.change(lambda _: None), READY_S)
                    proven = True
                except (LedgerError, TimeoutError):
                    proven = False
                self._proven = (time.monotonic(), proven)
            return proven


class Office:
    """What only a key of an admin may ask."""

    def __init__(self, gateway: "Gateway", desk: Desk) -> None:
        self._gateway = gateway
        self._desk = desk

    @property
    def operation(self) -> Operation:
        """Raises ApiError 409 where nobody has said how this gateway is run."""
        if self._gateway.operation is None:
            raise _conflict("This server was not started in a way that allows this.")
        return self._gateway.operation

    def guarded(self, answer: Answer) -> Answer:
        """The same for admins only."""

        async def guard(request: Request) -> Response:
            await self._admin(request)
            return await answer(request)

        return guard

    async def metrics(self, request: Request) -> Response:
        """The numbers name models and targets, so they are told to admins, or to all where that was said."""
        operation = self.operation
        if not operation.open_metrics:
            try:
                await self._admin(request)
            except LedgerError:  # the numbers are wanted most when the ledger cannot be read
                known = self._gateway.ledger.cached_key(_secret(request))
                if known is None or not known.admin:
                    raise
        from dutchdoor.gateway.metrics import CONTENT_TYPE

        return Response(operation.metrics(), media_type=CONTENT_TYPE)

    async def routes(self, _: Request) -> Response:
        return _json({"routes": [self._route(name) for name in self._gateway.routes]})

    async def set_route(self, request: Request) -> Response:
        """Put other targets behind a name; answers when every worker has switched."""
        from dutchdoor.gateway.routing.swap import RefusedError, swap_route

        operation = self.operation
        if operation.routes is None:
            raise _conflict("What is served here is no routes file, so its routes cannot be set.")
        body = _body(await request.body(), RouteBody)
        name = request.path_params["name"]
        try:
            done = await swap_route(
                operation.routes, name, body.to, operation.serving, timeout_s=SWITCH_S, new=body.new
            )
        except RefusedError as error:
            raise _conflict(error.message) from error
        except EngineError as error:
            raise ApiError(504, error.message, type="server_error", code="not_switched") from error
        return _json(done)

    async def reload(self, _: Request) -> Response:
        self.operation.reload()
        return _json({"asked": True}, 202)

    async def keys(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._create(_body(await request.body(), KeyBody))
        ledger = self._gateway.ledger
        return _json({"keys": [_key_row(key, await ledger.balance(key)) for key in await ledger.keys()]})

    async def revoke(self, request: Request) -> Response:
        key = await self._key(request.path_params["id"])
        revoked = await self._gateway.ledger.revoke_key(key.id)
        return _json({"id": revoked.id, "name": revoked.name, "revoked": revoked.revoked})

    async def rotate(self, request: Request) -> Response:
        key = await self._key(request.path_params["id"])
        return _json(await _asked(self._gateway.ledger.rotate_key(key.id)))

    async def _create(self, body: KeyBody) -> Response:
        try:
            budget = None if body.budget is None else nanodollars(str(body.budget))
        except LedgerError as error:
            raise ApiError(400, error.message, code="invalid_value", param="budget") from error
        made = await _asked(
            self._gateway.ledger.create_key(
                body.name,
                budget=budget,
                per=body.per,
                rpm=body.rpm,
                tpm=body.tpm,
                team=body.team,
                admin=body.admin,
            )
        )
        return _json(made, 201)

    async def _key(self, id_: str) -> Key:
        for key in await self._gateway.ledger.keys():
            if key.id == id_:  # no prefixes and names here: a program means one key
                return key
        raise ApiError(404, f"There is no key with the id `{id_[:100]}`.", code="key_not_found", param="id")

    def _route(self, name: str) -> dict[str, Any]:
        route = self._gateway.routes[name]
        weights = route.weights or (None,) * len(route.targets)
        return {
            "route": name,
            "to": [
                {"target": each.name, "weight": weight, "left_out": self._gateway.breaker_of(each).is_open}
                for each, weight in zip(route.targets, weights, strict=True)
            ],
            "unpriced": "allow" if route.unpriced else "refuse",
            "retries": route.retries,
            "deadline_s": route.deadline_s,
        }

    async def _admin(self, request: Request) -> None:
        if not (await self._desk.key_of(request)).admin:
            raise ApiError(
                403, "This needs the key of an admin.", type="permission_error", code="admin_key_required"
            )


async def _asked(change: Awaitable[T]) -> T:
    """What a change came to; one that the ledger refuses for what it says is the client's fault."""
    try:
        return await change
    except LedgerError as error:
        if error.__cause__ is not None:  # of the database: it cannot be written
            raise
        raise ApiError(400, error.message, code="invalid_value") from error


def _key_row(key: Key, balance: Balance) -> dict[str, Any]:
    kept = {name: getattr(key, name) for name in ("id", "name", "prefix", "created", "revoked", "per")}
    limits = {name: getattr(key, name) for name in ("rpm", "tpm", "team", "admin")}
    return {
        **kept,
        **limits,
        "budget_nanodollars": key.budget,
        "period": balance.period,
        "spent_nanodollars": balance.spent,
        "held_nanodollars": balance.held,
    }


def _secret(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        secret = request.headers.get("x-api-key", "")
    return secret.strip()


def _body(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(400, str(error), code="invalid_value") from error


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _conflict(message: str) -> ApiError:
    return ApiError(409, message, code="conflict")


async def _api_error(_: Request, error: ApiError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers}
    return Response(error.body(), error.status, headers, media_type="application/json")


async def _our_error(request: Request, error: DutchdoorError) -> Response:
    if isinstance(error, DocumentError | UsageError):
        hint = f" ({error.hint})" if error.hint else ""
        return await _api_error(request, ApiError(400, error.message + hint, code="invalid_value"))
    told = (
        "The ledger cannot be read or written."
        if isinstance(error, LedgerError)
        else "This cannot be done now."
    )
    log.write(log.faults, logging.ERROR, "admin", path=request.url.path, message=error.message)
    return await _api_error(request, ApiError(503, told, type="server_error", code="unavailable"))


async def _fault(request: Request, _: Exception) -> Response:
    """The fault itself is raised again by the framework, and logged by whoever called it."""
    return await _api_error(
        request, ApiError(500, "A fault in the gateway.", type="server_error", code="fault")
    )


async def _http_error(request: Request, error: HTTPException) -> Response:
    where = f"({request.method} {request.url.path[:200]})"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        told = ApiError(
            405,
            f"Not allowed to {request.method} here; use {allowed}.",
            code="method_not_allowed",
            headers=((b"allow", allowed.encode()),),
        )
    else:
        told = ApiError(error.status_code, f"Invalid URL {where}", code="unknown_url")
    return await _api_error(request, told)
