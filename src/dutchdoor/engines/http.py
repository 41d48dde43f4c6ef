"""A model behind HTTP in the OpenAI dialect: vLLM, llama-server, Ollama, hosted ones, another dutchdoor.

What the target or the way to it did wrong is `Unreachable` (try again) or `Overloaded` (wait, then try
again); what the request did wrong is `UsageError`, and a key or model that the target doesn't take is `DeniedError`;
all tell the target's own words. The key is sent to the
target and written nowhere else.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines.interface import (
    Answer,
    ChatRequest,
    Chunk,
    EngineInfo,
    FinishReason,
    Overloaded,
    TokenLogprob,
    Unreachable,
    Usage,
)
from dutchdoor.engines.providers import Provider, provider_of
from dutchdoor.engines.sse import events

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0  # between two pieces of an answer; a long question takes its time before the first
MOST_ERROR_CHARACTERS = 300  # of the target's own words
MOST_ANSWER_BYTES = 64 << 20  # an answer that never ends must not eat the memory
JSON = {"Content-Type": "application/json"}
FINISHES: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "eos": "stop",
    "end_turn": "stop",
    "max_tokens": "length",
}


class DeniedError(EngineError):
    """The target takes neither key nor model (HTTP 401, 403, 404): asking again would not help."""


class HttpEngine:
    """One model of one target. Made in a running event loop and used in it."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        provider: Provider | None = None,
        silence_s: float = SILENCE_SECONDS,
        connections: int = 100,
    ) -> None:
        """`url` is the base URL up to and including `/v1`; a full `…/chat/completions` is taken as well."""
        self._url = url.rstrip("/").removesuffix("/chat/completions")
        if not self._url.startswith(("http://", "https://")):
            raise UsageError(f"{url} is no http(s) address", hint="for example http://127.0.0.1:8000/v1")
        self._chat = URL(f"{self._url}/chat/completions")  # parsed once
        self._provider = provider or provider_of(self._url)
        self._key = key
        self.info = EngineInfo(name="http", version=self._provider.name, model=model, context_length=None)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence_s),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    def __repr__(self) -> str:
        return f"HttpEngine({self._url!r}, {self.info.model!r})"  # without the key

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """The answer as the target streams it.

        Raises UsageError for what the target cannot do or refuses, Overloaded, Unreachable; EngineError for
        an answer that is not in the dialect.
        """
        body = chat_body(request, self.info.model, self._provider)
        try:
            async with self._post(body) as response:
                await self._check(response)
                if "text/event-stream" not in response.content_type:
                    yield _formed(_whole, await response.read())
                    return
                finish: FinishReason | None = None
                async for event in events(response.content):
                    chunk = _formed(_piece, event)
                    finish = chunk.finish_reason or finish
                    yield chunk
                if finish is None:
                    raise Unreachable(f"{self._url} broke off in the middle of an answer", hint="ask again")
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise EngineError(f"{self._url} answers in no form of the OpenAI dialect: {error}") from error

    async def whole(self, request: ChatRequest) -> Answer:
        """The answer in one piece, for whoever needs no first token: half the work of a stream on both sides.

        Raises as `stream` does. `first_token_s` is the time to the whole answer.
        """
        body = chat_body(request, self.info.model, self._provider, stream=False)
        started = time.monotonic()
        try:
            async with self._post(body) as response:
                await self._check(response)
                piece = _formed(_whole, await _bounded(response))
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise EngineError(f"{self._url} answers in no form of the OpenAI dialect: {error}") from error
        took = time.monotonic() - started
        return Answer(
            text=piece.text,
            finish_reason=piece.finish_reason or "stop",
            usage=piece.usage,
            logprobs=piece.logprobs,
            first_token_s=took,
            total_s=took,
        )

    def _post(self, body: dict[str, Any]) -> Any:
        """The request, to be entered; encoded here because aiohttp's own way costs three times as much."""
        return self._session.post(self._chat, data=msgspec.json.encode(body), headers=JSON)

    def _unreachable(self, error: BaseException) -> Unreachable:
        said = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            said = "it did not answer in time"
        return Unreachable(
            f"{self._url} cannot be reached: {said}", hint="is it running, and is the address right?"
        )

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status < 400:
            return
        try:
            said = _their_words(await response.read())
        except aiohttp.ClientError:
            said = ""
        said = (
            said.replace(self._key, "…") if self._key else said
        )  # some servers repeat the key in their errors
        where = f"{self._url} answers {status}" + (f": {said}" if said else "")
        if status in (401, 403):
            raise DeniedError(where, hint="the key is missing, wrong, or not for this model")
        if status == 404:
            raise DeniedError(where, hint=f"does the target serve {self.info.model!r}?")
        if status in (408, 425) or (status >= 500 and status != 503):
            raise Unreachable(where)
        if status in (429, 503):
            raise Overloaded(where, retry_after_s=_seconds(response.headers.get("Retry-After")))
        raise UsageError(where)

    async def close(self) -> None:
        """Closes all connections. Closing twice is fine."""
        await self._session.close()
        await asyncio.sleep(0)  # lets the transports go, else they are reported as left open


def chat_body(request: ChatRequest, model: str, provider: Provider, *, stream: bool = True) -> dict[str, Any]:
    """The request in the OpenAI dialect. Raises UsageError for what the target is known not to do."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        provider.cap_field: request.max_tokens,
        "temperature": request.temperature,
        "stream": stream,
    }
    if stream and provider.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if request.top_p != 1.0:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        _needs(provider, provider.seed, "seed")
        body["seed"] = request.seed
    if request.logprobs is not None:
        _needs(provider, provider.logprobs, "logprobs")
        body["logprobs"] = True
        body["top_logprobs"] = request.logprobs
    if request.json_schema is not None:
        _needs(provider, provider.json_schema, "json_schema")
        schema = {"name": "answer", "schema": request.json_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _needs(provider: Provider, can: bool, what: str) -> None:
    if not can:
        raise UsageError(f"{provider.name} cannot do {what!r}", hint="leave it out, or ask another target")


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises ValueError above MOST_ANSWER_BYTES."""
    if (response.content_length or MOST_ANSWER_BYTES + 1) <= MOST_ANSWER_BYTES:
        return await response.read()
    body = bytearray()  # it comes in chunks, or says that it is too long
    async for part in response.content.iter_any():
        body += part
        if len(body) > MOST_ANSWER_BYTES:
            raise ValueError("an answer is longer than any answer")
    return bytes(body)


def _decoded(data: bytes) -> dict[str, Any]:
    value = msgspec.json.decode(data)  # DecodeError is a ValueError
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    error = value.get("error")
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise Unreachable(f"the target failed while answering: {str(message)[:MOST_ERROR_CHARACTERS]}")
    return value


def _formed(read: Callable[[dict[str, Any]], Chunk], data: bytes) -> Chunk:
    """What `read` makes of an answer. Raises ValueError where a field holds another kind of value."""
    try:
        return read(_decoded(data))
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError("a field holds another kind of value") from error


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError("content is no text")
    return value or ""


def _piece(data: dict[str, Any]) -> Chunk:
    """One event of a stream."""
    choices = data.get("choices") or []
    choice = choices[0] if choices else {}
    delta = choice.get("delta") or {}
    return Chunk(
        text=_text(delta.get("content")),
        logprobs=_logprobs(choice),
        finish_reason=_finish(choice.get("finish_reason")),
        usage=_usage(data.get("usage")),
    )


def _whole(data: dict[str, Any]) -> Chunk:
    """An answer of a target that does not stream."""
    choices = data.get("choices") or []
    if not choices:
        raise ValueError("no choices")
    message = choices[0].get("message") or {}
    return Chunk(
        text=_text(message.get("content")),
        logprobs=_logprobs(choices[0]),
        finish_reason=_finish(choices[0].get("finish_reason")) or "stop",
        usage=_usage(data.get("usage")),
    )


def _finish(said: Any) -> FinishReason | None:
    return None if said is None else FINISHES.get(str(said), "stop")


def _usage(row: Any) -> Usage | None:
    if not isinstance(row, dict):
        return None
    read, written = row.get("prompt_tokens"), row.get("completion_tokens")
    if not isinstance(read, int) or not isinstance(written, int):
        return None
    return Usage(input_tokens=read, output_tokens=written)


def _logprobs(choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    rows = (choice.get("logprobs") or {}).get("content") or ()
    return tuple(
        TokenLogprob(
            token=str(row.get("token", "")),
            token_id=row.get("id") if isinstance(row.get("id"), int) else None,
            logprob=float(row["logprob"]),
            top=tuple(
                (str(other.get("token", "")), float(other["logprob"]))
                for other in row.get("top_logprobs") or ()
            ),
        )
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("logprob"), (int, float))
    )


def _their_words(data: bytes) -> str:
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data[:MOST_ERROR_CHARACTERS].decode("utf-8", errors="replace").strip()
    if isinstance(value, dict):
        error = value.get("error", value.get("detail", value.get("message", "")))
        value = error.get("message", "") if isinstance(error, dict) else error
    return str(value)[:MOST_ERROR_CHARACTERS]


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None  # a date: not worth reading, the caller has a backoff of its own
