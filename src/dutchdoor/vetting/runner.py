"""Asks an engine every case of a suite and has the answers scored: case by case, in seeded order, resumable.

A case that the infrastructure kept from being answered is retried, then missing, never wrong. An empty
answer is an answer. A block by the member's own guard is a refusal; a block by anybody else is missing.
Signs and stores nothing.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import ChatRequest, Chunk, Engine, EngineInfo, Overloaded
from dutchdoor.evidence.record import Outcome, Sampling
from dutchdoor.vetting.checkpoint import Checkpoint
from dutchdoor.vetting.suites import Case, Suite

CONCURRENCY = 16  # questions in flight: what the embedded engine batches well (facts/engine.md)
ATTEMPTS = 4  # one and three retries
FIRST_WAIT_S = 0.25  # before the first retry; doubled for each further one
DEADLINE_S = 600.0  # for one answer: beyond it the engine counts as stuck
LONGEST_PAUSE_S = 60.0  # however long an overloaded target asks for
DOWN_AFTER = 32  # cases failed in a row without one answered: the target is down, the rest is not asked
RATE_WINDOW_S = 10.0  # the rate that is shown is over the last so many seconds
INFRASTRUCTURE = (EngineError, OSError, TimeoutError)


class Judged(Protocol):
    """What a scorer says of one answer; null: it could not tell."""

    @property
    def correct(self) -> bool | None: ...

    @property
    def refused(self) -> bool | None: ...


Score = Callable[[Case, str], Awaitable[Judged]]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is: cases done (also in earlier runs), cases a second, seconds left."""

    done: int
    total: int
    rate: float
    seconds_left: float | None


class BlockedElsewhereError(EngineError):
    """Somebody other than the member's own guard blocked an answer; asking again would not help."""


class BelowGuard:
    """An engine whose own content filter is no answer: a block seen above it is the guard's."""

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
                    raise BlockedElsewhereError("blocked by a filter that is not the member's own")
                yield chunk
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def close(self) -> None:
        await self.engine.close()


async def run_suite(
    engine: Engine,
    suite: Suite,
    *,
    score: Score,
    sampling: Sampling,
    seed: int = 0,
    concurrency: int = CONCURRENCY,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
    first_wait_s: float = FIRST_WAIT_S,
) -> tuple[Outcome, ...]:
    """The outcome of every case, in the suite's order. `engine` has its filters under `BelowGuard` already.

    Finished cases of `checkpoint` are not asked again; what is missing is not kept there, so that the next
    run asks it. Only infrastructure errors are swallowed; a fault in a scorer is raised.
    """
    finished = dict(checkpoint.finished) if checkpoint else {}
    waiting = [case for case in suite.cases if case.id not in finished]
    random.Random(seed).shuffle(waiting)  # noqa: S311 (an order, not a secret)
    run = _Run(engine, score, sampling, seed, checkpoint, progress, first_wait_s, finished, len(suite.cases))
    cases = iter(waiting)

    async def work() -> None:
        for case in cases:  # shared by all workers
            run.keep(await run.outcome(case))

    run.report()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(waiting))):
            group.create_task(work())
    return tuple(run.finished[case.id] for case in suite.cases)


class _Run:
    """The state that the workers of one run share."""

    def __init__(
        self,
        engine: Engine,
        score: Score,
        sampling: Sampling,
        seed: int,
        checkpoint: Checkpoint | None,
        progress: Callable[[Progress], None] | None,
        first_wait_s: float,
        finished: dict[str, Outcome],
        total: int,
    ) -> None:
        self.engine, self.score, self.sampling, self.seed = engine, score, sampling, seed
        self.checkpoint, self.progress, self.first_wait_s = checkpoint, progress, first_wait_s
        self.finished, self.total = finished, total
        self.failed_in_a_row = 0
        self.last_reason = ""
        self.times = [(time.monotonic(), len(finished))]

    def keep(self, outcome: Outcome) -> None:
        self.finished[outcome.id] = outcome
        if self.checkpoint is not None and outcome.error is None:
            self.checkpoint.add(outcome)
        self.report()

    def report(self) -> None:
        if self.progress is None:
            return
        now, done = time.monotonic(), len(self.finished)
        self.times.append((now, done))
        while len(self.times) > 2 and self.times[1][0] < now - RATE_WINDOW_S:
            self.times.pop(0)
        since, before = self.times[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        left = (self.total - done) / rate if rate > 0 else None
        self.progress(Progress(done=done, total=self.total, rate=rate, seconds_left=left))

    async def outcome(self, case: Case) -> Outcome:
        """One case, with retries. Missing after the last one, or when the target is down."""
        reason = f"not asked, because {DOWN_AFTER} cases in a row failed: {self.last_reason}"
        pause = 0.0
        for attempt in range(ATTEMPTS):
            if self.failed_in_a_row >= DOWN_AFTER:
                break
            if attempt:
                await asyncio.sleep(max(pause, self.first_wait_s * 2 ** (attempt - 1)))
            try:
                async with asyncio.timeout(DEADLINE_S):
                    outcome = await self.attempt(case)
            except (*INFRASTRUCTURE, UsageError) as error:
                reason = self.last_reason = _without_texts(error, case)
                asked = error.retry_after_s if isinstance(error, Overloaded) else None
                pause = min(asked or 0.0, LONGEST_PAUSE_S)
                if isinstance(error, BlockedElsewhereError | UsageError):  # it would end the same again
                    break
            else:
                self.failed_in_a_row = 0
                return outcome
        else:
            self.failed_in_a_row += 1
        return Outcome(id=case.id, correct=None, refused=None, cluster=case.cluster, error=reason)

    async def attempt(self, case: Case) -> Outcome:
        request = ChatRequest(
            messages=case.conversation(),
            max_tokens=case.max_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            seed=self.seed if self.sampling.temperature > 0 else None,  # not every target takes one
        )
        answer = await ask(self.engine, request)
        if answer.finish_reason == "content_filter":
            return Outcome(id=case.id, correct=False, refused=True, cluster=case.cluster, blocked=True)
        judged = await self.score(case, answer.text)
        unscored = judged.correct is None and judged.refused is None
        return Outcome(
            id=case.id,
            correct=judged.correct,
            refused=judged.refused,
            cluster=case.cluster,
            error="the scorer could not tell" if unscored else None,
        )


def _without_texts(error: BaseException, case: Case) -> str:
    """What went wrong, in one line; only its kind where the message repeats the case."""
    message = " ".join(str(error).split())[:200]
    quoted = any(text in message for text in _snippets(case))
    kind = type(error).__name__
    return kind if quoted or not message else f"{kind}: {message}"


def _snippets(case: Case) -> Sequence[str]:
    texts = [" ".join(message.content.split())[:20] for message in case.conversation()]
    return [text for text in texts if text]
