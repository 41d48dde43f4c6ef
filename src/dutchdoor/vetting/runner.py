"""Asks an engine every case of a suite and has the answers scored: case by case, in seeded order, resumable.

A case that the infrastructure kept from being answered is retried, then missing, never wrong. An empty answer is
an answer, unless its cap was spent before the first word. A block by the member's own guard is a refusal; a block
by anybody else is missing. What is kept in memory does not grow with what was answered. Signs and stores nothing.
"""

import asyncio
import random
import time
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import msgspec

from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import Answer, ChatRequest, Engine, Overloaded
from dutchdoor.evidence.record import Outcome, Sampling
from dutchdoor.vetting.below_guard import BelowGuard, BlockedElsewhereError
from dutchdoor.vetting.checkpoint import Checkpoint
from dutchdoor.vetting.suites import Case
from dutchdoor.vetting.tally import Tally

__all__ = ["BelowGuard", "BlockedElsewhereError", "Cases", "Judged", "Patience", "Progress", "run_cases"]

CONCURRENCY = 16  # questions in flight: what the embedded engine batches well (facts/engine.md)
REMOTE_CONCURRENCY = 64  # at a URL: what a server of its own batches
LONGEST_PAUSE_S = 60.0  # however long an overloaded target asks for
RATE_WINDOW_S = 10.0  # the rate that is shown is over the last so many seconds
REPORT_EVERY_S = 0.1  # faster than any display
INFRASTRUCTURE = (EngineError, OSError, TimeoutError)


class Judged(Protocol):
    """What a scorer says of one answer; null: it could not tell."""

    @property
    def correct(self) -> bool | None: ...

    @property
    def refused(self) -> bool | None: ...


Score = Callable[[Case, str], Awaitable[Judged]]


class Cases(Protocol):
    """The cases of a suite by their place; they need not all be in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int, /) -> Case: ...


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a target is waited for. Seconds and counts."""

    attempts: int = 5  # one and four retries
    first_wait_s: float = 0.25  # before the first retry; doubled for each further one, and spread by a half
    deadline_s: float = 600.0  # for one answer: beyond it the engine counts as stuck
    down_after: int = (
        32  # tries that failed, none between them answered: the target is down (a smaller suite: its size)
    )
    down_after_s: float = 3.0  # and this long: a server that starts again answers nobody for a moment


PATIENCE = Patience()


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is: cases done (also in earlier runs), cases a second, seconds left, and all counts."""

    done: int
    total: int
    rate: float
    seconds_left: float | None
    tally: Tally


class CutOffError(EngineError):
    """The cap on the answer was spent before its first word; asking again would end the same."""


def seeded_order(cases: Cases, seed: int) -> "array[int]":
    """The order to ask in: `stats.shuffled`, by whole clusters, so that a test that looks while cases come in holds.

    Four bytes a case where no case has a cluster.
    """
    import numpy as np

    from dutchdoor import stats

    clusters: list[str | None] | None = None
    for at in range(len(cases)):
        if cases[at].cluster is not None:
            clusters = [cases[i].cluster for i in range(len(cases))]
            break
    if clusters is not None:
        return array("I", stats.shuffled(len(cases), clusters, seed))
    made = array("I")
    made.frombytes(np.random.default_rng(seed).permutation(len(cases)).astype(np.uint32).tobytes())
    return made


async def run_cases(
    engine: Engine,
    cases: Cases,
    checkpoint: Checkpoint,
    *,
    score: Score,
    sampling: Sampling,
    seed: int = 0,
    concurrency: int = CONCURRENCY,
    progress: Callable[[Progress], None] | None = None,
    patience: Patience = PATIENCE,
) -> Tally:
    """Ask all cases that `checkpoint` does not have; the outcomes are there, the counts are returned.

    `engine` has its filters under `BelowGuard` already. When the target is down, the rest is not asked and the
    tally says so (`given_up`). Only infrastructure errors are swallowed; a fault in a scorer is raised.
    """
    tally = Tally(len(cases))
    for line in checkpoint.lines():
        tally.count(line.outcome, empty=line.empty)
    run = _Run(engine, score, sampling, seed, checkpoint, tally, progress, patience)
    waiting = _waiting(cases, checkpoint, seed)

    async def work() -> None:
        for at in waiting:  # shared by all workers
            run.unasked -= 1
            await run.settle(at, cases[at])
            if tally.given_up is not None:
                return

    run.report(always=True)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(cases) - tally.done)):
            group.create_task(work())
    run.report(always=True)
    return tally


def _waiting(cases: Cases, checkpoint: Checkpoint, seed: int) -> Iterator[int]:
    if checkpoint.finished == len(cases):
        return
    for at in seeded_order(cases, seed):
        if not checkpoint.has(at):
            yield at


class _Run:
    """The state that the workers of one run share."""

    def __init__(
        self,
        engine: Engine,
        score: Score,
        sampling: Sampling,
        seed: int,
        checkpoint: Checkpoint,
        tally: Tally,
        progress: Callable[[Progress], None] | None,
        patience: Patience,
    ) -> None:
        self.answer: Callable[[ChatRequest], Awaitable[Answer]]
        self.answer = getattr(engine, "whole", None) or partial(ask, engine)  # nobody waits for a first token
        self.score, self.sampling, self.seed = score, sampling, seed
        self.checkpoint, self.tally, self.progress, self.patience = checkpoint, tally, progress, patience
        self.unasked = tally.total - tally.done  # cases that nobody has taken up yet
        self.fresh = tally.done == 0
        self.answers = 0  # how often the target has answered
        self.resume_at = 0.0  # an overloaded target asked all of us to wait until then
        self.failures = 0  # in a row, none between them answered
        self.failing_since = 0.0
        self.times = deque([(time.monotonic(), tally.done)])

    async def settle(self, at: int, case: Case) -> None:
        """One case, to its outcome or to what it is missing for. Nothing is kept once the target is given up."""
        outcome, empty = await self.outcome(case)
        if outcome is None:
            return
        self.checkpoint.add(at, outcome, empty=empty)
        self.tally.count(outcome, empty=empty)
        self.report()

    def report(self, *, always: bool = False) -> None:
        if self.progress is None:
            return
        now, done = time.monotonic(), self.tally.done
        if not always and now - self.times[-1][0] < REPORT_EVERY_S:
            return
        self.times.append((now, done))
        while len(self.times) > 2 and self.times[1][0] < now - RATE_WINDOW_S:
            self.times.popleft()
        since, before = self.times[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        left = (self.tally.total - done) / rate if rate > 0 else None
        self.progress(
            Progress(done=done, total=self.tally.total, rate=rate, seconds_left=left, tally=self.tally)
        )

    async def outcome(self, case: Case) -> tuple[Outcome | None, bool]:
        """What a case comes to and whether its answer was empty; null when the target was given up meanwhile."""
        failed, seen = 0, self.answers
        while self.tally.given_up is None:
            try:
                async with asyncio.timeout(self.patience.deadline_s):
                    came = await self.attempt(case)
            except (*INFRASTRUCTURE, UsageError) as error:
                reason = _without_texts(error, case)
                again = _may_end_otherwise(error)
                if self.is_down(reason, again=again):
                    return None, False
                # busy with others of ours is no failure: while somebody gets through, "not now" means later
                failed += not (isinstance(error, Overloaded) and self.answers > seen)
                seen = self.answers
                if not again or failed >= self.patience.attempts:
                    return _missing(case, reason), False
                await self.wait(failed, error)
            else:
                return came
        return None, False

    async def wait(self, failed: int, error: BaseException) -> None:
        """The pause before another try; one that an overloaded target asks for holds for all."""
        pause = self.patience.first_wait_s * 2 ** max(0, failed - 1) * random.uniform(0.75, 1.5)  # noqa: S311 (spread)
        now = time.monotonic()
        if isinstance(error, Overloaded) and error.retry_after_s:
            self.resume_at = max(self.resume_at, now + min(error.retry_after_s, LONGEST_PAUSE_S))
        await asyncio.sleep(max(pause, self.resume_at - now))

    def is_down(self, reason: str, *, again: bool) -> bool:
        """Note a failure; true from then on when so many in a row say that nobody is there.

        At the end of a run only cases that keep failing are left, and no answer can come between them: that says
        nothing, unless no answer ever came.
        """
        now = time.monotonic()
        if self.failures == 0:
            self.failing_since = now
        self.failures += 1
        long_enough = not again or now - self.failing_since >= self.patience.down_after_s
        many = self.failures >= min(self.patience.down_after, 2 * self.tally.total)
        telling = self.unasked > 0 or (self.fresh and self.answers == 0)
        if many and long_enough and telling and self.tally.given_up is None:
            self.tally.given_up = (
                f"the target was given up after {self.failures} failures in a row, the last: {reason}"
            )
        return self.tally.given_up is not None

    async def attempt(self, case: Case) -> tuple[Outcome, bool]:
        if (pause := self.resume_at - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        request = ChatRequest(
            messages=case.conversation(),
            max_tokens=case.max_tokens,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            seed=self.seed if self.sampling.temperature > 0 else None,  # not every target takes one
        )
        answer = await self.answer(request)
        self.answers += 1
        self.failures = 0
        if answer.finish_reason == "content_filter":
            return Outcome(id=case.id, correct=False, refused=True, cluster=case.cluster, blocked=True), False
        if not answer.text and answer.finish_reason == "length":  # a reasoning model thought until its cap
            raise CutOffError("the answer was cut off at max_tokens before its first word")
        judged = await self.score(case, answer.text)
        unscored = judged.correct is None and judged.refused is None
        return Outcome(
            id=case.id,
            correct=judged.correct,
            refused=judged.refused,
            cluster=case.cluster,
            error="the scorer could not tell" if unscored else None,
        ), not answer.text.strip()


def _may_end_otherwise(error: BaseException) -> bool:
    from dutchdoor.engines.http import DeniedError

    return not isinstance(error, BlockedElsewhereError | CutOffError | DeniedError | UsageError)


def _missing(case: Case, reason: str) -> Outcome:
    return Outcome(id=case.id, correct=None, refused=None, cluster=case.cluster, error=reason)


def _without_texts(error: BaseException, case: Case) -> str:
    """What went wrong, in one line; only its kind where the message repeats the case."""
    message = " ".join(str(error).split())[:200]
    if isinstance(error, TimeoutError) and not message:
        message = "no answer in time"
    quoted = any(text in message for text in _snippets(case))
    kind = type(error).__name__
    return kind if quoted or not message else f"{kind}: {message}"


def _snippets(case: Case) -> Sequence[str]:
    texts = [" ".join(message.content.split())[:20] for message in case.conversation()]
    return [text for text in texts if text]
