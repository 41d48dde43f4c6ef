"""An engine whose own content filter is no answer: a block seen above it is the guard's.

Knows nothing of cases: see `dutchdoor.vetting.runner`.
"""

from collections.abc import AsyncIterator

from dutchdoor.core import EngineError
from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import Answer, ChatRequest, Chunk, Engine, EngineInfo

BLOCKED = "blocked by a filter that is not the member's own"


class BlockedElsewhereError(EngineError):
    """Somebody other than the member's own guard blocked an answer; asking again would not help."""


class BelowGuard:
    """Put around an engine before its guard is."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """As the engine does, but a block from there is an error."""
        source = self.engine.stream(request)
        try:
            async for chunk in source:
                if chunk.finish_reason == "content_filter":
                    raise BlockedElsewhereError(BLOCKED)
                yield chunk
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def whole(self, request: ChatRequest) -> Answer:
        """The answer in one piece, from an engine that has it so or gathered from its stream."""
        whole = getattr(self.engine, "whole", None)
        answer: Answer = await (whole(request) if whole is not None else ask(self.engine, request))
        if answer.finish_reason == "content_filter":
            raise BlockedElsewhereError(BLOCKED)
        return answer

    async def close(self) -> None:
        await self.engine.close()
