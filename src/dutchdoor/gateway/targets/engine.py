"""An engine of our own as a target: llama.cpp, transformers, or an upstream behind a guard."""

import contextlib
from collections.abc import Callable, Iterable

from dutchdoor.core import DutchdoorError, EngineError, UsageError
from dutchdoor.engines.interface import ChatRequest, Chunk, Engine, TokenLogprob, Usage
from dutchdoor.gateway import contract
from dutchdoor.gateway.call import Call
from dutchdoor.gateway.errors import ApiError, BrokenStreamError, TargetError, UnableError
from dutchdoor.gateway.targets.engine_chat import (
    ChatBody,
    chat_request,
    chunk_event,
    head,
    read_chat,
    usage_event,
    whole,
)
from dutchdoor.gateway.targets.interface import DONE, Headers, Outlet, Stream, Target, Whole
from dutchdoor.gateway.tariff import Tariff

PARALLEL = 8  # answers an engine works on at once


class EngineTarget:
    """`own` is what the member's system prompt adds to each request, in bytes; `hide` takes an upstream's
    key and address out of its words; `family` is whose budget it draws on.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        price: Tariff,
        *,
        own: int = 0,
        hide: Callable[[str], str] = str,
        family: str | None = None,
    ) -> None:
        self.name = name
        self.price = price
        self.family = family
        self.engine = engine
        self._own = own
        self._hide = hide

    def check(self, call: Call) -> None:
        contract.check(contract.ENGINE, call, f"'{call.asked.model}'")
        chat_request(_chat(call), 1)

    def bound(self, call: Call) -> tuple[int, int]:
        context = self.engine.info.context_length
        asked = call.input_bound + self._own
        return (asked if context is None else min(asked, context)), self._cap(call)

    def _cap(self, call: Call) -> int:
        context = self.engine.info.context_length
        return call.cap if context is None else min(call.cap, context)  # an answer is never longer than it

    async def answer(self, call: Call) -> Whole | Stream:
        request = chat_request(_chat(call), self._cap(call))
        stream = EngineStream(call, request, self.engine)
        try:
            return await (stream.begin() if call.asked.stream else stream.collect())
        except UsageError as error:  # the engine cannot do what is asked
            await stream.close()
            code = "context_length_exceeded" if isinstance(error, EngineError) else None  # both: too long
            message, param = self._hide(error.message), "messages" if code else None
            raise UnableError(ApiError(400, message, code=code, param=param)) from error
        except DutchdoorError as error:
            await stream.close()
            raise TargetError(error.message, status=503) from error
        except BaseException:  # the client has left, or the engine has a fault: either way it stops
            await stream.close()
            raise

    async def close(self) -> None:
        await self.engine.close()


class EngineStream:
    """An engine's answer as OpenAI's chunks."""

    def __init__(self, call: Call, request: ChatRequest, engine: Engine) -> None:
        self.usage: Usage | None = None
        self.relayed = 0
        self.tail = DONE
        self.headers: Headers = ()
        self._call = call
        self._wants_logprobs = request.logprobs is not None
        self._chunks = engine.stream(request)
        self._first: Chunk | None = None

    async def begin(self) -> "EngineStream":
        """Wait for the first chunk, so that another target can be asked as long as there is none."""
        async for chunk in self._chunks:
            self._first = chunk
            return self
        raise TargetError("the engine said nothing", status=503)

    async def collect(self) -> Whole:
        """The whole answer."""
        text: list[str] = []
        logprobs: list[TokenLogprob] = []
        finish = None
        async for chunk in self._chunks:
            text.append(chunk.text)
            logprobs.extend(chunk.logprobs)
            finish = chunk.finish_reason or finish
            self.usage = chunk.usage or self.usage
        if finish is None:
            raise TargetError("the engine stopped before its end", status=503)
        said = "".join(text)
        body = whole(
            self._head("chat.completion"),
            said,
            finish,
            self.usage,
            tuple(logprobs) if self._wants_logprobs else None,
        )
        return Whole(body=body, usage=self.usage, said=len(said.encode()))

    async def relay(self, out: Outlet) -> None:
        start = self._head("chat.completion.chunk")
        assert self._first is not None
        out.write(self._event(start, self._first, first=True))
        finished = self._first.finish_reason is not None
        try:
            async for chunk in self._chunks:
                out.write(self._event(start, chunk, first=False))
                finished = finished or chunk.finish_reason is not None
                await out.drain()
        except DutchdoorError as error:
            raise BrokenStreamError(error.message) from error
        if not finished:
            raise BrokenStreamError("the engine stopped before its end")
        if self._call.asked.include_usage and self.usage is not None:
            out.write(usage_event(start, self.usage))

    def _event(self, start: dict[str, object], chunk: Chunk, *, first: bool) -> bytes:
        self.usage = chunk.usage or self.usage
        self.relayed += bool(chunk.text)
        return chunk_event(start, chunk, first=first, logprobs=self._wants_logprobs)

    def _head(self, kind: str) -> dict[str, object]:
        return head(kind, "chatcmpl-" + self._call.request, self._call.asked.model, self._call.created)

    async def last_words(self) -> None:
        """Nothing to wait for: each piece is counted as it goes."""

    async def close(self) -> None:
        """Stop the engine."""
        closing = getattr(self._chunks, "aclose", None)
        if closing is not None:
            with contextlib.suppress(DutchdoorError):
                await closing()


def _chat(call: Call) -> ChatBody:
    """The body as engines of our own read it; raises ApiError 400."""
    return read_chat(call.asked.body, f"'{call.asked.model}'")


def engine_notes(targets: Iterable[Target]) -> list[str]:
    """A line for each target that the fast engine could not take, with the reason."""
    return [
        f"{target.name} is served by {target.engine.info.name}: {because}"
        for target in targets
        if isinstance(target, EngineTarget) and (because := target.engine.info.because)
    ]
