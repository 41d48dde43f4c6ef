"""An upstream in the OpenAI dialect: the body goes there as it came, the stream comes back as it is.

The only edits: the model's name there, the output cap under the one name that is read there, a request for
usage in streams, and a member's own system prompt, put first. The client's key never goes upstream, the
upstream's key and address never come back.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from dutchdoor.core import EngineError
from dutchdoor.engines.interface import Usage
from dutchdoor.gateway.errors import ApiError, BrokenStreamError, TargetError, error_body, unsupported
from dutchdoor.gateway.private import hider
from dutchdoor.gateway.sse import EventStream, bytes_said, is_answer, read_usage
from dutchdoor.gateway.targets import DEFAULT_CAP, DONE, Call, Stream, Whole
from dutchdoor.gateway.wire import format_type, read_fields
from dutchdoor.ledger.prices import Price

CONNECT_S = 5.0
END_S = 0.05  # the end of a body that follows `[DONE]`: waited for only so that the connection can be kept
IDLE_S = 300.0  # between two reads; a whole answer comes in one
LARGEST_ANSWER = 64 << 20  # bytes
LARGEST_ERROR = 64 << 10
BAD_REQUEST = frozenset({400, 409, 413, 415, 422})  # the client's fault: no other target would take it either
PASSED_ON = ("retry-after", "sunset", "deprecation")  # headers a client should see
FIELD = re.compile(rb"\s*(?:data|event|id|retry)?:")
# OpenAI's own newer models refuse `max_tokens`; most local servers know nothing else
CAP_FIELDS = {"api.openai.com": "max_completion_tokens"}


class HttpTarget:
    """A model at a URL (`https://host/v1`). `can` says false for what it cannot do: tools, logprobs,
    json_schema, images, n, or a parameter.
    """

    def __init__(
        self,
        name: str,
        url: str,
        model: str,
        price: Price | None,
        *,
        key: str | None = None,
        can: Mapping[str, bool] | None = None,
        system_prompt: str | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EngineError(
                f"{url!r} is no URL of target {name!r}", hint="write it as http://127.0.0.1:9001/v1"
            )
        self.name = name
        self.price = price
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = msgspec.Raw(msgspec.json.encode(model))
        self._cap_field = CAP_FIELDS.get(parts.hostname, "max_tokens")
        self._can = dict(can or {})
        self._system = (
            None
            if system_prompt is None
            else msgspec.json.encode({"role": "system", "content": system_prompt})
        )
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        self._idle_s = idle_s
        self._hide = hider(url, key)
        self._session: aiohttp.ClientSession | None = None

    def check(self, call: Call) -> None:
        for name, able in self._can.items():
            if not able and (param := asks_for(name, call)) is not None:
                raise unsupported(param, f"target '{self.name}'")

    def bound(self, call: Call) -> tuple[int, int]:
        own = 0 if self._system is None else len(self._system)
        return call.input_bound + own, (call.envelope.cap or DEFAULT_CAP) * call.envelope.choices

    def body(self, call: Call) -> bytes:
        """What is sent: every field's bytes as they came, but for the edits."""
        fields = read_fields(call.body)
        fields["model"] = self._model
        for name in ("max_tokens", "max_completion_tokens"):  # one that is not read there caps nothing
            fields.pop(name, None)
        fields[self._cap_field] = msgspec.Raw(b"%d" % (call.envelope.cap or DEFAULT_CAP))
        if call.stream:
            options = read_fields(fields["stream_options"]) if call.envelope.stream_options else {}
            options["include_usage"] = msgspec.Raw(b"true")
            fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        if self._system is not None:
            rest = bytes(fields["messages"]).lstrip()[1:]
            fields["messages"] = msgspec.Raw(b"[" + self._system + b"," + rest)
        return msgspec.json.encode(fields)

    async def answer(self, call: Call) -> Whole | Stream:
        body = self.body(call)
        sent = _Sent()
        try:
            try:
                response = await self._post(body, sent)
            except aiohttp.ServerDisconnectedError as error:
                # Only on a kept connection, which the upstream had just closed, and before a byte of an answer:
                # on a fresh one it has got the request, and would be paid twice.
                if not sent.reused or not isinstance(error.message, str):
                    raise
                response = await self._post(body, sent)
        except aiohttp.ClientConnectorError as error:
            raise TargetError(f"cannot connect: {type(error).__name__}", status=503) from error
        except TimeoutError as error:
            raise TargetError("no answer in time", status=504) from error
        except aiohttp.ClientError as error:
            raise TargetError(f"{type(error).__name__}") from error
        try:
            return await self._read(call, response)
        except TimeoutError as error:
            response.close()
            raise TargetError("the answer stalled", status=504) from error
        except (aiohttp.ClientError, ValueError) as error:
            response.close()
            raise TargetError(f"the answer broke off: {type(error).__name__}") from error
        except BaseException:
            response.close()
            raise

    async def _post(self, body: bytes, sent: "_Sent") -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._idle_s),
                skip_auto_headers=("user-agent",),
                read_bufsize=1 << 18,
                trace_configs=[_tracing()],
            )
        # a redirect would carry the key to another host
        return await self._session.post(
            self._url, data=body, headers=self._headers, allow_redirects=False, trace_request_ctx=sent
        )

    async def _read(self, call: Call, response: aiohttp.ClientResponse) -> Whole | Stream:
        headers = tuple(
            (name.encode(), value.encode("latin-1"))
            for name in PASSED_ON
            if (value := response.headers.get(name))
        )
        if response.status != 200:
            await self._refuse(response, headers)
        if call.stream:
            return await HttpStream(response, call.include_usage, headers).begin()
        body = await _whole_body(response, LARGEST_ANSWER)
        response.release()
        if not is_answer(body):
            raise TargetError("the answer is no chat completion")
        usage = read_usage(body)
        return Whole(body=body, usage=usage, said=0 if usage else bytes_said(body), headers=headers)

    async def _refuse(
        self, response: aiohttp.ClientResponse, headers: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        status = response.status
        if status not in BAD_REQUEST:
            response.close()
            raise TargetError(f"status {status}", status=429 if status == 429 else 502, headers=headers)
        body = await _whole_body(response, LARGEST_ERROR)
        response.release()
        raise _their_error(status, body, self._hide)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class _Sent:
    """What became known while a request was sent."""

    def __init__(self) -> None:
        self.reused = False  # whether it went out on a connection that had been kept


def _tracing() -> aiohttp.TraceConfig:
    async def reused(
        _: aiohttp.ClientSession, context: Any, __: aiohttp.TraceConnectionReuseconnParams
    ) -> None:
        context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(reused)
    return tracing


class HttpStream:
    """An upstream's stream, passed on."""

    def __init__(
        self, response: aiohttp.ClientResponse, keep_usage: bool, headers: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        self.headers = headers
        self._response = response
        self._events = EventStream(keep_usage=keep_usage)
        self._first = b""

    @property
    def usage(self) -> Usage | None:
        return self._events.usage

    @property
    def relayed(self) -> int:
        return self._events.relayed

    @property
    def tail(self) -> bytes:
        return self._events.tail or DONE

    async def begin(self) -> "HttpStream":
        """Wait for the first event; anything else than events is no answer."""
        while not (self._first or self._events.tail or self._events.failed):
            piece = await self._response.content.readany()
            if not piece:
                self._first = self._events.close()
                break
            self._first = self._events.feed(piece)
        if self._events.failed:
            raise TargetError("the stream began with an error")
        if not FIELD.match(self._first):
            raise TargetError("the answer is no stream of events")
        return self

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self._first
        try:
            # an upstream may hold the connection open after the end marker: nothing comes any more
            while not self._ended and (piece := await self._response.content.readany()):
                if events := self._events.feed(piece):
                    yield events
        except TimeoutError as error:
            raise BrokenStreamError("the stream stalled") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise BrokenStreamError(f"the stream broke off: {type(error).__name__}") from error
        if rest := self._events.close():
            yield rest
        if self._events.failed or not (self._events.finished or self._events.tail):
            raise BrokenStreamError("the stream ended before its end")
        await self._finish()
        self._response.release()

    @property
    def _ended(self) -> bool:
        return bool(self._events.tail) or self._events.failed

    async def _finish(self) -> None:
        """Read the end of the body if it is there: only then can the connection be kept."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, ValueError):
            async with asyncio.timeout(END_S):
                while await self._response.content.readany():
                    pass

    async def close(self) -> None:
        """Cut the connection, which stops the upstream; one that came to its end is kept for the next
        request.
        """
        self._response.close()


def key_from(variable: str | None, who: str) -> str | None:
    """The key that an environment variable holds; raises EngineError where it is named and empty."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise EngineError(
            f"{variable} is not set, and {who} needs the key in it", hint=f"export {variable}=…"
        )
    return key


def asks_for(ability: str, call: Call) -> str | None:
    """The parameter with which a request asks for an ability that a target may lack; null if it does not."""
    fields = read_fields(call.body)

    def given(name: str) -> bool:
        return name in fields and bytes(fields[name]) not in (b"null", b"false", b"[]", b"{}")

    if ability == "n":
        return "n" if call.envelope.choices > 1 else None
    if ability == "json_schema":
        wanted = given("response_format") and format_type(fields["response_format"]) != "text"
        return "response_format" if wanted else None
    if ability == "images":
        shown = any(b'"image_url"' in bytes(each) for each in call.envelope.messages)
        return "messages" if shown else None
    names = {"tools": ("tools", "functions"), "logprobs": ("logprobs", "top_logprobs")}.get(
        ability, (ability,)
    )
    return next((name for name in names if given(name)), None)


async def _whole_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    while piece := await response.content.readany():
        body += piece
        if len(body) > most:
            raise ValueError("an answer without an end")
    return bytes(body)


class _TheirError(msgspec.Struct):
    error: dict[str, Any]


def _their_error(status: int, body: bytes, hide: Callable[[str], str]) -> ApiError:
    """An upstream's own words about a bad request, as far as they have OpenAI's form, without its key and
    address.
    """
    try:
        error = msgspec.json.decode(body, type=_TheirError).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = {}

    def word(name: str) -> str | None:
        value = error.get(name)
        return hide(value) if isinstance(value, str) else None  # some servers repeat the key in their errors

    return ApiError(
        status,
        word("message") or "The target refused this request.",
        type=word("type") or "invalid_request_error",
        code=word("code"),
        param=word("param"),
    )


def stream_error_event(message: str) -> bytes:
    """The event that ends a stream which broke after its first byte."""
    return b"data: " + error_body(message, "server_error", code="stream_broken") + b"\n\n"
