"""The few pieces of ASGI that the gateway needs, without a framework on the hot path."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from dutchdoor.gateway.errors import ApiError

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

LARGEST_BODY = 32 << 20  # bytes; room for a few images
JSON = (b"content-type", b"application/json")


class ClientLeftError(Exception):
    """The client went away before its request was whole."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a name (lower case), or null."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def read_body(scope: Scope, receive: Receive, most: int = LARGEST_BODY) -> bytes:
    """A request's body; raises ApiError 413 above `most` bytes, without reading more than that."""
    declared = header(scope, b"content-length")
    if declared is not None and int(declared) > most:
        raise _too_large(most)
    pieces: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientLeftError
        piece: bytes = event.get("body", b"")
        size += len(piece)
        if size > most:
            raise _too_large(most)
        pieces.append(piece)
        if not event.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def start(send: Send, status: int, headers: Headers) -> None:
    """Send the status line and headers."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def respond(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    """Send a whole JSON response."""
    await start(send, status, [JSON, (b"content-length", b"%d" % len(body)), *headers])
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: ApiError, headers: Headers = ()) -> None:
    """Send an error in OpenAI's form."""
    await respond(send, error.status, error.body(), [*error.headers, *headers])


def _too_large(most: int) -> ApiError:
    # the rest of the body is not read, so the connection cannot be used again
    return ApiError(
        413,
        f"The body is larger than {most} bytes.",
        code="body_too_large",
        headers=((b"connection", b"close"),),
    )
