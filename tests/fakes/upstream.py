"""A small upstream that speaks the OpenAI dialect over real HTTP: scripted answers, streams, errors, stalls.

Give it replies in order (the last one repeats), or a function from the request's body to a reply. It records
what it was asked. `Upstream` lives in the caller's event loop; `upstream_thread` has a loop of its own, for
tests that are not async.
"""

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self

from aiohttp import web


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """One scripted answer; a stream sends one event a word."""

    text: str = "open below, closed above"
    input_tokens: int = 7
    output_tokens: int | None = None  # none: one a word
    usage: bool = True  # false: the upstream never tells
    finish_reason: str = "stop"
    status: int = 200
    message: str = "scripted error"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    raw: bytes | None = None  # sent as the whole body, as it is
    delay_s: float = 0.0  # before the status line
    pause_s: float = 0.0  # before each event of a stream
    stall_after: int | None = None  # events after which a stream hangs until the client leaves
    drop_after: int | None = None  # events after which the connection is cut; 0: before any byte of the body
    logprobs: bool = False

    @property
    def words(self) -> list[str]:
        parts = self.text.split(" ")
        return [part if index == 0 else " " + part for index, part in enumerate(parts)]

    @property
    def counts(self) -> dict[str, int]:
        output = len(self.words) if self.output_tokens is None else self.output_tokens
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": output,
            "total_tokens": self.input_tokens + output,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Received:
    """What a client sent."""

    path: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]


def _logprobs(words: Sequence[str]) -> dict[str, Any]:
    return {
        "content": [
            {
                "token": word,
                "logprob": -0.5,
                "bytes": list(word.encode()),
                "top_logprobs": [{"token": word, "logprob": -0.5, "bytes": list(word.encode())}],
            }
            for word in words
        ],
        "refusal": None,
    }


class Upstream:
    """`async with Upstream(Reply(text="hi")) as upstream: upstream.url` is `http://127.0.0.1:PORT/v1`."""

    def __init__(
        self,
        *replies: Reply,
        script: Callable[[dict[str, Any]], Reply] | None = None,
        models: Sequence[str] = ("m",),
    ) -> None:
        self.replies = list(replies) or [Reply()]
        self.script = script
        self.models = tuple(models)
        self.requests: list[Received] = []
        self.left = 0  # requests whose client went away before the end
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0) -> str:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        # the handler is cancelled when its client leaves, as in real servers
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self.url

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "object": "list",
                "data": [
                    {"id": name, "object": "model", "created": 0, "owned_by": "fake"} for name in self.models
                ],
            }
        )

    def _next(self, body: dict[str, Any]) -> Reply:
        if self.script is not None:
            return self.script(body)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        self.requests.append(Received(path=request.path, headers=dict(request.headers), raw=raw, body=body))
        reply = self._next(body)
        try:
            return await self._answer(request, body, reply)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left += 1
            raise

    async def _answer(self, request: web.Request, body: dict[str, Any], reply: Reply) -> web.StreamResponse:
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.status != 200:
            error = {"error": {"message": reply.message, "type": "scripted", "param": None, "code": None}}
            return web.json_response(error, status=reply.status, headers=reply.headers)
        if body.get("stream"):
            return await self._stream(request, body, reply)
        if reply.drop_after is not None:
            _cut(request)
        if reply.stall_after is not None:
            await asyncio.sleep(3600)
        if reply.raw is not None:
            return web.Response(body=reply.raw, content_type="application/json", headers=reply.headers)
        return web.json_response(_whole(body, reply), headers=reply.headers)

    async def _stream(self, request: web.Request, body: dict[str, Any], reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **reply.headers})
        await response.prepare(request)
        if reply.raw is not None:
            await response.write(reply.raw)
            await response.write_eof()
            return response
        sent = 0
        async for event in _events(body, reply):
            if sent == reply.drop_after:
                _cut(request)
            if sent == reply.stall_after:
                await asyncio.sleep(3600)
            await response.write(event)
            sent += 1
        await response.write_eof()
        return response


def _cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


def _whole(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text},
        "finish_reason": reply.finish_reason,
        "logprobs": _logprobs(reply.words) if reply.logprobs else None,
    }
    whole: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model"),
        "choices": [choice],
    }
    if reply.usage:
        whole["usage"] = reply.counts
    return whole


async def _events(body: dict[str, Any], reply: Reply) -> AsyncIterator[bytes]:
    head = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body.get("model"),
    }

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"

    for index, word in enumerate(reply.words):
        if reply.pause_s:
            await asyncio.sleep(reply.pause_s)
        delta = {"content": word} if index else {"role": "assistant", "content": word}
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
        if reply.logprobs:
            choice["logprobs"] = _logprobs([word])
        yield event([choice])
    yield event([{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}])
    if reply.usage and (body.get("stream_options") or {}).get("include_usage"):
        yield event([], usage=reply.counts)
    yield b"data: [DONE]\n\n"


@contextlib.contextmanager
def upstream_thread(
    *replies: Reply, script: Callable[[dict[str, Any]], Reply] | None = None
) -> Iterator[Upstream]:
    """A running `Upstream` for tests that are not async: it has a thread and a loop of its own."""
    upstream = Upstream(*replies, script=script)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(upstream.start(), loop).result(10)
    try:
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(upstream.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
