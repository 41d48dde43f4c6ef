"""What can answer a request: the seam between the way of a request and engines or upstreams.

A target says what it cannot do before it is asked, how many tokens a request can come to at most, and
answers whole or as a stream of events. It knows neither keys nor budgets.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

import msgspec

from dutchdoor.core import DutchdoorError, EngineError, UsageError
from dutchdoor.engines.interface import ChatRequest, Chunk, Engine, TokenLogprob, Usage
from dutchdoor.gateway.errors import ApiError, BrokenStreamError, TargetError, UnableError
from dutchdoor.gateway.wire import (
    ChatBody,
    Envelope,
    chat_request,
    chunk_event,
    head,
    read_chat,
    usage_event,
    whole,
)
from dutchdoor.ledger.prices import Price

DEFAULT_CAP = 1024  # output tokens, where neither the request nor the context says less
TOKENS_PER_MESSAGE = 32  # what a chat template puts around a message, at most
TOKENS_PER_REQUEST = 512  # and around the whole: begin and end marks, a template's own default system prompt
BYTES_PER_TOKEN = 4  # of English text; for input whose count nobody told, never for a bound
PARALLEL = 8  # answers an engine works on at once
DONE = b"data: [DONE]\n\n"


class Call:
    """One admitted request on its way to a target."""

    def __init__(self, request: str, body: bytes, envelope: Envelope, created: int) -> None:
        self.request = request
        self.body = body
        self.envelope = envelope
        self.created = created
        self._chat: ChatBody | None = None

    @property
    def stream(self) -> bool:
        return bool(self.envelope.stream)

    @property
    def include_usage(self) -> bool:
        options = self.envelope.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def input_bound(self) -> int:
        """No request has more input tokens: a token of text is at least one byte, and JSON only makes text
        longer.
        """
        return len(self.body) + TOKENS_PER_MESSAGE * len(self.envelope.messages) + TOKENS_PER_REQUEST

    @property
    def input_guess(self) -> int:
        """Input tokens, where the target never told and the client has left; never above the bound."""
        return -(-sum(len(bytes(each)) for each in self.envelope.messages) // BYTES_PER_TOKEN)

    def chat(self, who: str) -> ChatBody:
        """The body as engines of our own read it; raises ApiError 400."""
        if self._chat is None:
            self._chat = read_chat(self.body, who)
        return self._chat


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in one piece. `said` is the bytes of text in it, where no usage tells the tokens."""

    body: bytes
    usage: Usage | None
    said: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Stream(Protocol):
    """An answer in pieces of whole events, of which the first has come. Closing it stops whoever makes it."""

    @property
    def usage(self) -> Usage | None:
        """The latest that was told."""
        ...

    @property
    def relayed(self) -> int:
        """Pieces of text passed on, which stand for tokens where no usage is told."""
        ...

    @property
    def tail(self) -> bytes:
        """The end marker, which is sent when all is settled."""
        ...

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What a client should see of an upstream's headers."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """Raises BrokenStreamError where the stream does not come to its end."""
        ...

    async def close(self) -> None: ...


class Target(Protocol):
    """One place that serves a model."""

    name: str
    price: Price | None  # null: unknown

    def check(self, call: Call) -> None:
        """Raises ApiError, naming the parameter, where it cannot do what is asked."""
        ...

    def bound(self, call: Call) -> tuple[int, int]:
        """The most input and output tokens that the request can come to here."""
        ...

    async def answer(self, call: Call) -> Whole | Stream:
        """Raises TargetError where another target may be asked (UnableError where this one cannot do it),
        ApiError where the request itself is refused.
        """
        ...

    async def close(self) -> None: ...


class EngineTarget:
    """An engine of our own: llama.cpp, transformers, or an upstream behind a guard. `own` is what the
    member's system prompt adds to each request, in bytes; `hide` takes an upstream's key and address out of
    its words.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        price: Price | None,
        *,
        own: int = 0,
        hide: Callable[[str], str] = str,
    ) -> None:
        self.name = name
        self.price = price
        self.engine = engine
        self._own = own
        self._hide = hide

    def check(self, call: Call) -> None:
        chat_request(call.chat(f"'{call.envelope.model}'"), 1)

    def bound(self, call: Call) -> tuple[int, int]:
        context = self.engine.info.context_length
        asked = call.input_bound + self._own
        return (asked if context is None else min(asked, context)), self._cap(call)

    def _cap(self, call: Call) -> int:
        context = self.engine.info.context_length
        wanted = call.envelope.cap or DEFAULT_CAP
        return (
            wanted if context is None else min(wanted, context)
        )  # an answer cannot be longer than the context

    async def answer(self, call: Call) -> Whole | Stream:
        request = chat_request(call.chat(f"'{call.envelope.model}'"), self._cap(call))
        stream = EngineStream(call, request, self.engine)
        try:
            return await (stream.begin() if call.stream else stream.collect())
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
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
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

    async def pieces(self) -> AsyncIterator[bytes]:
        start = self._head("chat.completion.chunk")
        assert self._first is not None
        yield self._event(start, self._first, first=True)
        finished = self._first.finish_reason is not None
        try:
            async for chunk in self._chunks:
                yield self._event(start, chunk, first=False)
                finished = finished or chunk.finish_reason is not None
        except DutchdoorError as error:
            raise BrokenStreamError(error.message) from error
        if not finished:
            raise BrokenStreamError("the engine stopped before its end")
        if self._call.include_usage and self.usage is not None:
            yield usage_event(start, self.usage)

    def _event(self, start: dict[str, object], chunk: Chunk, *, first: bool) -> bytes:
        self.usage = chunk.usage or self.usage
        self.relayed += bool(chunk.text)
        return chunk_event(start, chunk, first=first, logprobs=self._wants_logprobs)

    def _head(self, kind: str) -> dict[str, object]:
        return head(kind, "chatcmpl-" + self._call.request, self._call.envelope.model, self._call.created)

    async def close(self) -> None:
        """Stop the engine."""
        closing = getattr(self._chunks, "aclose", None)
        if closing is not None:
            with contextlib.suppress(DutchdoorError):
                await closing()


def engine_notes(targets: Iterable[Target]) -> list[str]:
    """A line for each target that the fast engine could not take, with the reason."""
    return [
        f"{target.name} is served by {target.engine.info.name}: {because}"
        for target in targets
        if isinstance(target, EngineTarget) and (because := target.engine.info.because)
    ]
