"""A small upstream that speaks the OpenAI dialect over real HTTP: scripted answers, streams, errors, stalls.

Give it replies in order (the last one repeats), or a function from the request's body to a reply. It records
what it was asked. `Upstream` lives in the caller's event loop; `upstream_thread` has a loop of its own, for
tests that are not async.
"""

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import json
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
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
    parts: Sequence[bytes] = ()  # of the body of a stream, as they are, with `pause_s` before each
    delay_s: float = 0.0  # before the status line
    pause_s: float = 0.0  # before each event of a stream
    stall_after: int | None = None  # events after which a stream hangs until the client leaves
    drop_after: int | None = None  # events after which the connection is cut; 0: before any byte of the body
    error_after: int | None = None  # events of a stream after which an error event comes, and the end
    done: bool = True  # false: a stream ends without `[DONE]`
    flood: int = 0  # bytes of text that a stream sends instead, in events of FLOOD bytes
    logprobs: bool = False
    tools: Sequence[tuple[str, str]] = ()  # functions it calls instead of saying anything: name, arguments
    cached_tokens: int = 0  # of its input

    @property
    def words(self) -> list[str]:
        parts = self.text.split(" ")
        return [part if index == 0 else " " + part for index, part in enumerate(parts)]

    @property
    def counts(self) -> dict[str, Any]:
        output = len(self.words) if self.output_tokens is None else self.output_tokens
        counts: dict[str, Any] = {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": output,
            "total_tokens": self.input_tokens + output,
        }
        if self.cached_tokens:
            counts["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return counts


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
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            app.router.add_post(path, self._post)
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

    async def _post(self, request: web.Request) -> web.StreamResponse:
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
        return web.json_response(WHOLE[request.path](body, reply), headers=reply.headers)

    async def _stream(self, request: web.Request, body: dict[str, Any], reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **reply.headers})
        await response.prepare(request)
        if reply.raw is not None or reply.parts:
            for part in reply.parts or [reply.raw or b""]:
                await asyncio.sleep(reply.pause_s)
                await response.write(part)
            await response.write_eof()
            return response
        sent = 0
        async for event in _events(request.path, body, reply):
            if sent == reply.drop_after:
                _cut(request)
            if sent == reply.error_after:
                await response.write(ERROR_EVENT)
                break
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


def _message(reply: Reply) -> dict[str, Any]:
    if not reply.tools:
        return {"role": "assistant", "content": reply.text}
    return {"role": "assistant", "content": None, "tool_calls": _calls(reply)}


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(reply.tools)
    ]


def _framed(kind: str, body: dict[str, Any], reply: Reply, choices: list[dict[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model"),
        "choices": choices,
    }
    if reply.usage:
        whole["usage"] = reply.counts
    return whole


def _whole_chat(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "message": _message(reply),
        "finish_reason": "tool_calls" if reply.tools else reply.finish_reason,
        "logprobs": _logprobs(reply.words) if reply.logprobs else None,
    }
    choices = [{"index": index, **choice} for index in range(body.get("n") or 1)]
    return _framed("chat.completion", body, reply, choices)


def _whole_completion(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    choice = {"index": 0, "text": reply.text, "finish_reason": reply.finish_reason, "logprobs": None}
    return _framed("text_completion", body, reply, [choice])


def _embeddings(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    floats = [0.5, -0.25, 1.0]
    packed = base64.b64encode(struct.pack("<3f", *floats)).decode()
    vector = packed if body.get("encoding_format") == "base64" else floats
    return {
        "object": "list",
        "model": body.get("model"),
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(texts))],
        "usage": {"prompt_tokens": reply.input_tokens, "total_tokens": reply.input_tokens},
    }


WHOLE = {
    "/v1/chat/completions": _whole_chat,
    "/v1/completions": _whole_completion,
    "/v1/embeddings": _embeddings,
}
ERROR_EVENT = b'data: {"error": {"message": "it broke at http://127.0.0.1/ with sk-secret", "code": 500}}\n\n'
FLOOD = 1 << 16


def _deltas(path: str, reply: Reply) -> Iterator[dict[str, Any]]:
    """What is different in the choice of each event."""
    words: Iterable[str] = reply.words
    if reply.flood:
        words = itertools.repeat("x" * FLOOD, reply.flood // FLOOD)
    if path == "/v1/completions":
        yield from ({"text": word} for word in words)
        return
    if reply.tools:
        for index, call in enumerate(_calls(reply)):
            function = call["function"]
            begun = {**call, "index": index, "function": {**function, "arguments": ""}}
            yield {"delta": {"role": "assistant", "content": None, "tool_calls": [begun]}}
            half = len(function["arguments"]) // 2
            for part in (function["arguments"][:half], function["arguments"][half:]):
                yield {"delta": {"tool_calls": [{"index": index, "function": {"arguments": part}}]}}
        return
    for index, word in enumerate(words):
        delta = {"content": word} if index else {"role": "assistant", "content": word}
        yield {"delta": delta, **({"logprobs": _logprobs([word])} if reply.logprobs else {})}


async def _events(path: str, body: dict[str, Any], reply: Reply) -> AsyncIterator[bytes]:
    chat = path == "/v1/chat/completions"
    head = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1,
        "model": body.get("model"),
    }

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"

    choices = range(body.get("n") or 1)
    for delta in _deltas(path, reply):
        if reply.pause_s:
            await asyncio.sleep(reply.pause_s)
        for index in choices:
            yield event([{"index": index, "finish_reason": None, **delta}])
    finish = "tool_calls" if reply.tools else reply.finish_reason
    for index in choices:
        yield event([{"index": index, **({"delta": {}} if chat else {"text": ""}), "finish_reason": finish}])
    if reply.usage and (body.get("stream_options") or {}).get("include_usage"):
        yield event([], usage=reply.counts)
    if reply.done:
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
