"""Engines without a model: they answer by a rule, fail on command, and note what they were asked."""

import asyncio
from collections.abc import AsyncIterator, Callable

from dutchdoor.core import EngineError
from dutchdoor.engines.interface import ChatRequest, Chunk, EngineInfo, Usage

Rule = Callable[[str], str]


def echo(prompt: str) -> str:
    """The prompt again."""
    return prompt


class ScriptedEngine:
    """Answers the last message by a rule, word by word.

    `fail`: how often a prompt fails before it is answered (-1: always); `blocked`: which end with a filter.
    """

    def __init__(
        self,
        rule: Rule = echo,
        *,
        fail: Callable[[str], int] = lambda _: 0,
        blocked: Callable[[str], bool] = lambda _: False,
        error: BaseException | None = None,
        latency_s: float = 0.0,
        version: str = "1",
    ) -> None:
        self.info = EngineInfo(name="scripted", version=version, model="fake", context_length=None)
        self.rule, self.fail, self.blocked, self.latency_s = rule, fail, blocked, latency_s
        self.error = error or EngineError("out of order")
        self.asked: list[str] = []
        self.requests: list[ChatRequest] = []
        self.now = self.most = 0
        self.closed = False

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        assert not self.closed, "a closed engine was asked"
        prompt = request.messages[-1].content
        self.asked.append(prompt)
        self.requests.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.latency_s)
            failures = self.fail(prompt)
            if failures < 0 or self.asked.count(prompt) <= failures:
                raise self.error
            if self.blocked(prompt):
                yield Chunk(finish_reason="content_filter")
                return
            for word in self.rule(prompt).split(" "):
                yield Chunk(text=word + " ")
            yield Chunk(finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1))
        finally:
            self.now -= 1

    async def close(self) -> None:
        self.closed = True
