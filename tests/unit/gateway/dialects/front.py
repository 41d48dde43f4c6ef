"""A dialect in front of a scripted target, over real HTTP, so that official clients can be pointed at it."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from dutchdoor.gateway.call import Asked, Call
from dutchdoor.gateway.dialects.interface import Dialect
from dutchdoor.gateway.errors import ApiError
from dutchdoor.ledger.requests import Used

USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}


def completion(message: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    choice |= more.pop("choice", {})
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "there",
        "choices": [choice],
        "usage": USAGE,
    }
    return json.dumps(body | more).encode()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a stream; without a delta one with empty choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    if choices:
        choices[0] |= more.pop("choice", {})
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "there", "choices": choices}
    return b"data: " + json.dumps(body | more, ensure_ascii=False).encode() + b"\n\n"


def used(**counts: int) -> Used:
    """What was booked."""
    counts = {"input_tokens": 20, "output_tokens": 7} | counts
    return Used(target="t", state="finished", counted="reported", **counts)


def call(asked: Asked) -> Call:
    """An admitted request."""
    return Call("req_0123", asked, created=1_790_000_000)


class Front:
    """`answer`: what the target says: a body, a list of events, or an error. `asked`: what it was asked."""

    def __init__(self, *dialects: Dialect) -> None:
        self.answer: bytes | list[bytes] | ApiError = completion({"content": "hello"})
        self.breaks: str | None = None
        self.asked: list[Asked] = []
        self.url = ""
        self._dialects = {dialect.path: dialect for dialect in dialects}

    @property
    def body(self) -> Any:
        """The last body that went to the target."""
        return json.loads(self.asked[-1].body)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        dialect = self._dialects[request.path]
        try:
            asked = dialect.read(await request.read())
            self.asked.append(asked)
            if isinstance(self.answer, ApiError):
                raise self.answer
            if isinstance(self.answer, bytes):
                body = dialect.answer(call(asked), self.answer)
                return web.Response(body=body, content_type="application/json")
        except ApiError as error:
            body = dialect.error(error)
            return web.Response(body=body, status=error.status, content_type="application/json")
        assert asked.stream
        return await self._stream(request, dialect, asked, self.answer)

    async def _stream(
        self, request: web.Request, dialect: Dialect, asked: Asked, events: list[bytes]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        translator = dialect.translator(call(asked))
        assert translator is not None
        for event in events:
            await response.write(translator.feed(event))
        end = translator.end(used()) if self.breaks is None else translator.broken(self.breaks)
        await response.write(end)
        await response.write_eof()
        return response


@contextlib.asynccontextmanager
async def serving(*dialects: Dialect) -> AsyncIterator[Front]:
    """A running front; `url` ends before `/v1`."""
    front = Front(*dialects)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/{path:.*}", front.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # it is started
    front.url = f"http://127.0.0.1:{port}"
    try:
        yield front
    finally:
        await runner.cleanup()


def events(stream: bytes) -> list[tuple[str, Any]]:
    """Names and data of the events of a stream."""
    found = []
    for event in stream.decode().split("\n\n"):
        if not event or event.startswith(":"):
            continue
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
