"""Everything that is not a model request: health, the list of models, a key's own usage.

A kept framework, off the hot path: it is imported when the first such request comes.
"""

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from dutchdoor.gateway.errors import ApiError, unknown_model, wrong_key
from dutchdoor.gateway.protocol.asgi import App
from dutchdoor.ledger.keys import Key

if TYPE_CHECKING:
    from dutchdoor.gateway.app import Gateway


def admin_app(gateway: "Gateway", *, pages: App | None = None) -> App:
    """The application; `pages` answers what is not under `/v1` and has no path of its own here."""
    desk = Desk(gateway)
    routes: list[Any] = [
        Route("/healthz", desk.health),
        Route("/readyz", desk.ready),
        Route("/v1/models", desk.models),
        Route("/v1/models/{name:path}", desk.model),
    ]
    if pages is not None:
        routes.append(Mount("/", pages))
    return Starlette(
        routes=routes,
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},  # type: ignore[dict-item]
    )


class Desk:
    """The answers, over one gateway."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    async def health(self, _: Request) -> Response:
        return _json({"ok": True})

    async def ready(self, _: Request) -> Response:
        ready = self._gateway.ready and not self._gateway.draining
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

    def _row(self, name: str) -> dict[str, Any]:
        about = self._gateway.routes[name].about
        return {"id": name, "object": "model", "created": 0, "owned_by": "dutchdoor", "dutchdoor": about}

    async def key_of(self, request: Request) -> Key:
        """The living key of a request, read anew; raises ApiError 401."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            secret = request.headers.get("x-api-key", "")
        key = await self._gateway.ledger.find_key(secret.strip(), fresh=True) if secret.strip() else None
        if key is None:
            raise wrong_key()
        return key


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _api_error(_: Request, error: ApiError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers}
    return Response(error.body(), error.status, headers, media_type="application/json")


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
