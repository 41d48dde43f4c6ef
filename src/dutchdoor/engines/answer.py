"""A stream of chunks gathered into one answer, with its timings."""

import time
from contextlib import aclosing

from dutchdoor.core import EngineError
from dutchdoor.engines.interface import Answer, ChatRequest, Chunk, Engine, FinishReason, TokenLogprob, Usage


async def ask(engine: Engine, request: ChatRequest) -> Answer:
    """The whole answer to one request.

    `first_token_s` is the time to the first chunk that carries text (to the end where none does). Raises
    EngineError where the engine fails or its stream ends without a finish reason: half an answer is never
    taken for one.
    """
    started = time.monotonic()
    first: float | None = None
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    finish: FinishReason | None = None
    usage: Usage | None = None
    async with aclosing(_as_generator(engine, request)) as chunks:
        async for chunk in chunks:
            if chunk.text and first is None:
                first = time.monotonic() - started
            texts.append(chunk.text)
            logprobs.extend(chunk.logprobs)
            finish = chunk.finish_reason or finish
            usage = chunk.usage or usage
    if finish is None:
        raise EngineError(f"{engine.info.model} stopped in the middle of an answer", hint="ask again")
    total = time.monotonic() - started
    return Answer(
        text="".join(texts),
        finish_reason=finish,
        usage=usage,
        logprobs=tuple(logprobs),
        first_token_s=total if first is None else first,
        total_s=total,
    )


class _Closable:
    """What `aclosing` needs, over an iterator that may be any AsyncIterator."""

    def __init__(self, engine: Engine, request: ChatRequest) -> None:
        self._iterator = engine.stream(request)

    def __aiter__(self) -> "_Closable":
        return self

    async def __anext__(self) -> Chunk:
        return await self._iterator.__anext__()

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


def _as_generator(engine: Engine, request: ChatRequest) -> _Closable:
    return _Closable(engine, request)
