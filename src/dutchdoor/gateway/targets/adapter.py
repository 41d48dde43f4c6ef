"""A provider with an API of its own as a target: Anthropic's messages, Gemini's `generateContent`.

A kept library translates the request and the answer; this puts both into the gateway's form, and refuses what
the library would leave out. Not for providers that speak the OpenAI dialect: those are rows with a URL.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from dutchdoor.engines.interface import Usage
from dutchdoor.gateway import contract
from dutchdoor.gateway.call import BYTES_PER_TOKEN, Call
from dutchdoor.gateway.dialects.sse import bytes_said, read_answer
from dutchdoor.gateway.errors import ApiError, BrokenStreamError, TargetError
from dutchdoor.gateway.targets.adapter_chat import Provider, read
from dutchdoor.gateway.targets.adapter_library import (
    URLS,
    library_errors,
    open_provider,
    translated,
)
from dutchdoor.gateway.targets.engine_chat import event, head
from dutchdoor.gateway.targets.http import IDLE_S, LAST_WORDS_S
from dutchdoor.gateway.targets.interface import DONE, Headers, Outlet, Stream, Whole
from dutchdoor.gateway.targets.private import hider
from dutchdoor.gateway.tariff import Tariff

SAID = ("content", "reasoning", "refusal")  # the texts of a delta


class AdapterTarget:
    """`model` as the provider names it. `can` says what it cannot do, `family` whose budget it draws on.

    Raises MissingExtraError where the library is not installed.
    """

    def __init__(
        self,
        name: str,
        provider: Provider,
        model: str,
        price: Tariff,
        *,
        key: str,
        can: contract.Abilities | None = None,
        base_url: str | None = None,
        family: str | None = None,
    ) -> None:
        url = base_url or URLS[provider]
        self.name = name
        self.price = price
        self.family = family
        self.model = model
        self._kind: Provider = provider
        self._can = can
        self._who = f"target '{name}'"
        self._hide = hider(url, key)
        self._library = open_provider(provider, key, url)
        self._errors = library_errors()

    def check(self, call: Call) -> None:
        if call.asked.operation != "chat":
            message = f"'{call.asked.model}' answers chats only, no {call.asked.operation}."
            raise ApiError(400, message, code="unsupported_operation", param="model")
        if self._can is not None:
            contract.check(self._can, call, self._who)
        read(call, self._kind, self._who)

    def bound(self, call: Call) -> tuple[int, int]:
        return call.input_bound, call.cap * call.asked.choices

    async def answer(self, call: Call) -> Whole | Stream:
        arguments = read(call, self._kind, self._who)
        left_s = call.left_s
        if left_s <= 0:
            raise TargetError("no time is left", status=504)
        deadline = asyncio.get_running_loop().time() + left_s
        timeout_s = min(left_s, IDLE_S)
        try:
            async with asyncio.timeout_at(None if left_s == float("inf") else deadline):
                asked = self._library.provider.acompletion(
                    self.model, stream=call.asked.stream, timeout=timeout_s, **arguments
                )
                if not call.asked.stream:
                    return _whole(call, await asked)
                return await AdapterStream(call, await asked, self._errors, deadline).begin()
        except TimeoutError as error:
            raise TargetError("no answer in time", status=504) from error
        except self._errors as error:
            raise translated(error, self._who, self._hide) from error

    async def close(self) -> None:
        await self._library.close()


def _whole(call: Call, completion: Any) -> Whole:
    """The library's answer under the gateway's id and the model's public name, as an engine's."""
    choices = []
    for choice in completion.choices[:1]:  # no more was asked for
        message = {"role": "assistant", "content": None, "refusal": None}
        message |= choice.message.model_dump(mode="json", exclude_none=True)
        choices.append(
            {"index": 0, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}
        )
    if not choices:
        raise TargetError("the answer holds no choice")
    start = head("chat.completion", "chatcmpl-" + call.request, call.asked.model, call.created)
    usage = _told(completion.usage)
    body = msgspec.json.encode({**start, "choices": choices} | ({} if usage is None else {"usage": usage}))
    read_back = read_answer(body)
    return Whole(body=body, usage=read_back.usage, said=0 if read_back.usage else bytes_said(body))


def _told(usage: Any) -> dict[str, Any] | None:
    """OpenAI's `usage`; null where the provider told none, for which the library writes zeros."""
    if usage is None or not (usage.prompt_tokens or usage.completion_tokens):
        return None
    return dict(usage.model_dump(mode="json", exclude_none=True))


class AdapterStream:
    """The library's chunks as events, on one id.

    Each is awaited in a task of its own: a client that leaves must not cut the chunk under way, in which the
    usage may come.
    """

    headers: Headers = ()
    tail = DONE

    def __init__(
        self,
        call: Call,
        chunks: AsyncIterator[Any],
        errors: tuple[type[Exception], ...],
        deadline: float,
    ) -> None:
        self.relayed = 0
        self._counted: Usage | None = None
        self._counted_at = 0  # `relayed` when it was told
        self._call = call
        self._chunks = chunks
        self._errors = errors
        self._deadline = deadline
        self._start = head(
            "chat.completion.chunk", "chatcmpl-" + call.request, call.asked.model, call.created
        )
        self._told: dict[str, Any] | None = None
        self._next: asyncio.Task[Any] | None = None
        self._first: bytes | None = None
        self._finished = False
        self._calls: dict[int, int] = {}  # places of tool calls among themselves, by the provider's

    @property
    def usage(self) -> Usage | None:
        """The last that was told, and what was passed on since: Anthropic tells the input first."""
        since = self.relayed - self._counted_at
        if self._counted is None or since <= 0:
            return self._counted
        return msgspec.structs.replace(self._counted, output_tokens=self._counted.output_tokens + since)

    async def begin(self) -> "AdapterStream":
        """Wait for the first event that says anything: until then another target may be asked."""
        try:
            self._first = await self._event()
        except BaseException:  # also a client that has left
            await self.close()
            raise
        if self._first is None:
            await self.close()
            raise TargetError("the stream ended before it began")
        return self

    async def relay(self, out: Outlet) -> None:
        piece = self._first
        try:
            async with asyncio.timeout_at(None if self._deadline == float("inf") else self._deadline):
                while piece is not None:
                    out.write(piece)
                    await out.drain()
                    piece = await self._event()
        except TimeoutError as error:
            raise BrokenStreamError("no answer in time") from error
        except self._errors as error:
            raise BrokenStreamError(f"the stream broke: {type(error).__name__}") from error
        if not self._finished:
            raise BrokenStreamError("the stream ended before its end")
        if self._call.asked.include_usage and self._told is not None:
            out.write(event({**self._start, "choices": [], "usage": self._told}))

    async def _event(self) -> bytes | None:
        """The next chunk that says anything; null at the end."""
        while (chunk := await self._chunk()) is not None:
            if piece := self._take(chunk):
                return piece
        return None

    async def _chunk(self) -> Any:
        if self._next is None:
            self._next = asyncio.ensure_future(_following(self._chunks))
        chunk = await asyncio.shield(self._next)
        self._next = None
        return chunk

    def _take(self, chunk: Any) -> bytes:
        """A chunk as an event, empty where it says nothing; usage is kept for the end."""
        piece = self._say(chunk)
        if (told := _told(chunk.usage)) is not None:
            self._told = told
            if (counted := read_answer(msgspec.json.encode({"usage": told})).usage) is not None:
                self._counted, self._counted_at = counted, self.relayed  # of this chunk too
        return piece

    def _say(self, chunk: Any) -> bytes:
        if not chunk.choices:
            return b""
        choice = chunk.choices[0]
        delta = self._delta(choice.delta.model_dump(mode="json", exclude_none=True))
        if not delta and choice.finish_reason is None:
            return b""
        self._finished = self._finished or choice.finish_reason is not None
        self.relayed += _tokens(delta)
        if self._first is None:
            delta = {"role": "assistant", **delta}
        return event(
            {
                **self._start,
                "choices": [
                    {"index": 0, "delta": delta, "logprobs": None, "finish_reason": choice.finish_reason}
                ],
            }
        )

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        for name in ("role", *SAID):  # a role comes once; empty text says nothing
            if name == "role" or not delta.get(name):
                delta.pop(name, None)
        for call in delta.get("tool_calls", ()):  # Anthropic counts all blocks, OpenAI the calls alone
            call["index"] = self._calls.setdefault(call["index"], len(self._calls))
        return delta

    async def last_words(self) -> None:
        """Read on for a moment: a provider that is nearly done tells what it counted."""
        counted = self.relayed
        with contextlib.suppress(TimeoutError, *self._errors):
            async with asyncio.timeout(LAST_WORDS_S):
                while await self._event() is not None:
                    self.relayed = counted  # nobody got it
        self.relayed = counted

    async def close(self) -> None:
        """Cut the connection, which stops the provider."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
            self._next = None
        closing: Callable[[], Any] | None = getattr(self._chunks, "aclose", None)
        if closing is not None:
            await closing()


async def _following(chunks: AsyncIterator[Any]) -> Any:
    return await anext(chunks, None)  # a task cannot end in StopAsyncIteration


def _tokens(delta: dict[str, Any]) -> int:
    """Tokens of a delta, where no usage is told: the providers put several into one."""
    texts = [delta.get(name, "") for name in SAID]
    texts += [call.get("function", {}).get("arguments") or "" for call in delta.get("tool_calls", ())]
    return -(-sum(len(text.encode()) for text in texts) // BYTES_PER_TOKEN)
