"""An upstream in the OpenAI dialect: the body goes there as it came, the stream comes back as it is.

The only edits: the model's name there, the output cap under the one name that is read there, a request for
usage in streams, and a member's own system prompt, put first. The client's key never goes upstream, the
upstream's key and address never come back.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dutchdoor.core import EngineError
from dutchdoor.engines.interface import Usage
from dutchdoor.gateway import contract
from dutchdoor.gateway.call import Call, Operation
from dutchdoor.gateway.dialects.reading import read_fields
from dutchdoor.gateway.dialects.sse import EventStream, bytes_said, read_answer
from dutchdoor.gateway.errors import ApiError, BrokenStreamError, TargetError, UnableError
from dutchdoor.gateway.protocol.answer import Answer, CannotConnectError, SilentError, UpstreamError
from dutchdoor.gateway.protocol.client import Origin, header_safe
from dutchdoor.gateway.targets.interface import DONE, Headers, Outlet, Stream, Whole
from dutchdoor.gateway.targets.private import hider
from dutchdoor.gateway.tariff import Tariff
from dutchdoor.ledger.prices import Price

END_S = 0.05  # the end of a body that follows `[DONE]`: waited for only so that the connection can be kept
LAST_WORDS_S = 0.25  # how long the usage may still come when the client has left
IDLE_S = 300.0  # between two reads; a whole answer comes in one
LARGEST_ANSWER = 64 << 20  # bytes
LARGEST_ERROR = 64 << 10
BAD_REQUEST = frozenset({400, 409, 413, 415, 422})  # the client's fault: no other target would take it either
NOT_DONE = frozenset({408, 425, 429, 500, 502, 503, 529})  # an upstream that says so has charged nothing
PASSED_ON = (b"retry-after", b"sunset", b"deprecation")  # headers a client should see
FIELD = re.compile(rb"\s*(?:data|event|id|retry)?:")
# OpenAI's own newer models refuse `max_tokens`; most local servers know nothing else
CAP_FIELDS = {"api.openai.com": "max_completion_tokens"}
PATHS: dict[Operation, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}
TRUE = msgspec.Raw(b"true")


class HttpTarget:
    """A model at a URL (`https://host/v1`). `can` says what it cannot do, `family` whose budget it draws
    on.
    """

    def __init__(
        self,
        name: str,
        url: str,
        model: str,
        price: Tariff,
        *,
        key: str | None = None,
        can: contract.Abilities | None = None,
        system_prompt: str | None = None,
        idle_s: float = IDLE_S,
        family: str | None = None,
    ) -> None:
        if not _is_url(url):
            raise EngineError(
                f"{url!r} is no URL of target {name!r}", hint="write it as http://127.0.0.1:9001/v1"
            )
        if key is not None and not (key.isascii() and key.isprintable()):
            raise EngineError(
                f"the key of target {name!r} holds a character that no header can hold",
                hint="look at its variable: does it end with a line break?",
            )
        parts = urlsplit(url)
        self.name = name
        self.price = price
        self.family = family
        self.model = model
        self._raw_model = msgspec.Raw(msgspec.json.encode(model))
        self._cap_field = CAP_FIELDS.get(parts.hostname or "", "max_tokens")
        self._can = can
        self._who = f"target '{name}'"
        self._system = (
            None
            if system_prompt is None
            else msgspec.json.encode({"role": "system", "content": system_prompt})
        )
        self._heads = {operation: _head(url, path, key) for operation, path in PATHS.items()}
        self._hide = hider(url, key)
        self._origin = Origin(url, idle_s=idle_s)

    def check(self, call: Call) -> None:
        can = contract.UNKNOWN if self._can is None else self._can
        contract.check(can, call, self._who)
        contract.check_money(can, call, self._who, stated=isinstance(self.price, Price))
        if self._system is not None and call.asked.operation != "chat":
            # its system prompt could not be put first
            message = f"'{call.asked.model}' answers chats only, no {call.asked.operation}."
            raise ApiError(400, message, code="unsupported_operation", param="model")

    def bound(self, call: Call) -> tuple[int, int]:
        own = 0 if self._system is None else len(self._system)
        asked = call.asked
        if asked.operation == "embeddings":
            return call.input_bound, 0
        return call.input_bound + own, call.cap * asked.choices

    def body(self, call: Call) -> bytes:
        """What is sent: every field's bytes as they came, but for the edits."""
        asked = call.asked
        fields = dict(call.fields)
        fields["model"] = self._raw_model
        if asked.operation == "embeddings":
            return msgspec.json.encode(fields)
        cap = msgspec.Raw(b"%d" % call.cap)
        if asked.operation == "completions":
            fields["max_tokens"] = cap
        else:
            fields.pop("max_tokens", None)  # one that is not read there caps nothing
            fields.pop("max_completion_tokens", None)
            fields[self._cap_field] = cap
        if asked.stream and (self._can is None or "stream_usage" not in self._can.lacks):
            stated = fields.get("stream_options")
            options = {} if stated is None or bytes(stated) == b"null" else read_fields(bytes(stated))
            options["include_usage"] = TRUE
            fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        if self._system is not None:
            rest = bytes(fields["messages"]).lstrip()[1:]
            fields["messages"] = msgspec.Raw(b"[" + self._system + b"," + rest)
        return msgspec.json.encode(fields)

    async def answer(self, call: Call) -> Whole | Stream:
        body = self.body(call)
        request = b"%b%d\r\n\r\n%b" % (self._heads[call.asked.operation], len(body), body)
        deadline = asyncio.get_running_loop().time() + call.left_s
        try:
            answer = await self._origin.send(request, deadline)
        except UpstreamError as error:
            raise _failed(error) from error
        try:
            return await self._read(call, answer)
        except UpstreamError as error:
            answer.close()
            raise _failed(error) from error
        except ValueError as error:
            answer.close()
            raise TargetError(str(error)) from error
        except BaseException:  # also a client that has left
            answer.close()
            raise

    async def _read(self, call: Call, answer: Answer) -> Whole | Stream:
        headers = tuple((name, value) for name in PASSED_ON if (value := answer.headers.get(name)))
        if answer.status != 200:
            await self._refuse(answer, headers)
        if answer.headers.get(b"content-encoding", b"identity") != b"identity":
            raise TargetError("the answer is compressed, which was not asked for")
        if call.asked.stream:
            return await HttpStream(answer, call.asked.include_usage, headers).begin()
        body = await answer.read(LARGEST_ANSWER)
        read = read_answer(body)
        if not read.is_answer:
            raise TargetError("the answer is none of this operation")
        said = 0 if read.usage else bytes_said(body)
        return Whole(body=body, usage=read.usage, said=said, headers=headers)

    async def _refuse(self, answer: Answer, headers: Headers) -> None:
        status = answer.status
        if status not in BAD_REQUEST:
            told = 429 if status == 429 else 502
            raise TargetError(f"status {status}", status=told, headers=headers, again=status in NOT_DONE)
        refusal = _their_error(status, await answer.read(LARGEST_ERROR), self._hide)
        # a longer context may be next
        raise UnableError(refusal) if refusal.code == "context_length_exceeded" else refusal

    async def close(self) -> None:
        self._origin.close()
        await asyncio.sleep(0)  # lets the transports go, else they are reported as left open


class HttpStream:
    """An upstream's stream, passed on."""

    def __init__(self, answer: Answer, keep_usage: bool, headers: Headers) -> None:
        self.headers = headers
        self._answer = answer
        self._events = EventStream(keep_usage=keep_usage)
        self._first = b""
        self._fault: ValueError | None = None

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
        while not (self._first or self._ended()):
            piece = await self._answer.piece()
            if not piece:
                self._first = self._events.close()
                break
            self._first = self._events.feed(piece)
        if self._events.failed:
            raise TargetError("the stream began with an error")
        if not FIELD.match(self._first):
            raise TargetError("the answer is no stream of events")
        return self

    async def relay(self, out: Outlet) -> None:
        out.write(self._first)
        if not self._ended():
            await self._pump(out)
        if rest := self._events.close():
            out.write(rest)
        if self._events.failed or not (self._events.finished or self._events.tail):
            raise BrokenStreamError("the stream ended before its end")
        await self._finish()

    async def _pump(self, out: Outlet) -> None:
        """Pass events on as they come, without a step of a coroutine for each: that is most of the cost."""
        feed, write, answer = self._events.feed, out.write, self._answer

        def take(piece: bytes) -> None:
            try:
                if events := feed(piece):
                    write(events)
            except ValueError as error:
                self._fault = error
            if self._ended() or self._fault is not None:
                answer.stop()  # an upstream may hold the connection open after the end marker

        answer.hold(False)  # what was read ahead may have been much; nobody else lets it go on
        out.on_pressure(answer.hold)
        try:
            await answer.pump(take)
        except UpstreamError as error:
            raise BrokenStreamError(str(error)) from error
        if self._fault is not None:
            raise BrokenStreamError(str(self._fault)) from self._fault

    def _ended(self) -> bool:
        return bool(self._events.tail) or self._events.failed

    async def _finish(self) -> None:
        """Read the end of the body if it is there: only then can the connection be kept."""
        if self._answer.finished:
            return
        with contextlib.suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(END_S):
                while await self._answer.piece():
                    pass

    async def last_words(self) -> None:
        """Read on for a moment: an upstream that is nearly done tells what it counted."""
        if self._ended():
            return
        with contextlib.suppress(TimeoutError, UpstreamError, ValueError):
            async with asyncio.timeout(LAST_WORDS_S):
                while not self._ended() and (piece := await self._answer.piece()):
                    counted = self._events.relayed
                    self._events.feed(piece)
                    self._events.relayed = counted  # nobody got it

    async def close(self) -> None:
        """Cut the connection, which stops the upstream; one that came to its end is kept for the next
        request.
        """
        self._answer.close()


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an address that is none
        return False
    return right and url.isascii() and url.isprintable() and " " not in url


def _head(url: str, path: str, key: str | None) -> bytes:
    """Everything of a request up to its length."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    lines = [
        f"POST {parts.path.rstrip('/')}{path}{'?' + parts.query if parts.query else ''} HTTP/1.1",
        f"host: {place}",
        "content-type: application/json",
        "accept-encoding: identity",
    ]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    return b"".join(header_safe(line) + b"\r\n" for line in lines) + b"content-length: "


def _failed(error: UpstreamError) -> TargetError:
    status = {CannotConnectError: 503, SilentError: 504}.get(type(error), 502)
    return TargetError(str(error), status=status, again=isinstance(error, CannotConnectError))


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
