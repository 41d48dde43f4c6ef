"""Both sides are asked the same, the same way: warmed up, one at a time, then several at a time.

Each case is answered once and greedily. An infrastructure failure is tried again and then missing, never a
wrong answer; a side that fails again and again is given up, so that a dead endpoint does not cost its timeout
every time. Scores nothing: see `dutchdoor.drill.compare`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from dutchdoor.core import DutchdoorError, EngineError, UsageError
from dutchdoor.drill.report import Reply
from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import ChatRequest, Engine, Message
from dutchdoor.vetting.runner import BlockedElsewhereError

STREAMS = 4  # requests at a time in the crowd
ALONE = 20  # cases that are asked one at a time, at most
LIMIT_S = 60.0  # for measuring one load of one side; more would not tell much more
FEWEST_IN_TIME = 3  # questions that are asked however long they take
FEWEST_FOR_BOTH = 8  # below this, a crowd of the other half says nothing
TRIES = 3
PAUSE_S = 0.5  # before the second try; doubles
LONGEST_PAUSE_S = 30.0  # an overloaded server may ask for more, and gets this
GIVE_UP_AFTER = 5  # cases that failed in a row
GIVEN_UP = f"not asked: {GIVE_UP_AFTER} requests in a row had failed"
ANSWER_S = 600  # the longest an answer may take
WARM_UP = ChatRequest(messages=(Message(role="user", content="Hello, how are you today?"),), max_tokens=8)
WARM_UPS = 2

Progress = Callable[[str, int, int], None]  # what is done, how many of how many
AskOne = Callable[["Question"], Awaitable[Reply]]
T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent for one case."""

    id: str
    messages: tuple[Message, ...]
    max_tokens: int
    cluster: str | None = None


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """All replies in the order of the questions, and the two loads with their wall clocks (seconds)."""

    replies: tuple[Reply, ...]
    alone: tuple[Reply, ...]
    alone_s: float
    crowd: tuple[Reply, ...]
    crowd_s: float


def split(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of `count` cases are asked alone, spread evenly over the file, and which in the crowd."""
    if count < FEWEST_FOR_BOTH:
        return tuple(range(count)), ()
    few = min(ALONE, count // 2)
    alone = {i * count // few for i in range(few)}
    return tuple(sorted(alone)), tuple(i for i in range(count) if i not in alone)


async def warm_up(engine: Engine) -> None:
    """The first answers, which are not counted. Raises EngineError where the side can't be reached at all."""
    for _ in range(WARM_UPS):
        await _persist(lambda: ask(engine, WARM_UP))


async def interview(
    engine: Engine, questions: Sequence[Question], *, streams: int, limit_s: float, progress: Progress
) -> Answers:
    """Ask every question once: some alone, as far as `limit_s` (seconds) reaches, and all others in the crowd."""
    ask_one = partial(reply_to, engine)
    count = len(questions)
    alone_at = split(count)[0] if streams > 1 else tuple(range(count))
    limit = limit_s if streams > 1 else None  # without a crowd, all have to be asked alone
    alone, alone_s = await _load(ask_one, [questions[i] for i in alone_at], 1, progress, limit)
    taken = alone_at[: len(alone)]
    rest = tuple(i for i in range(count) if i not in set(taken)) if streams > 1 else ()
    crowd, crowd_s = await _load(ask_one, [questions[i] for i in rest], streams, progress, None)
    replies = {**dict(zip(taken, alone, strict=True)), **dict(zip(rest, crowd, strict=True))}
    ordered = tuple(replies[i] for i in range(count))
    return Answers(replies=ordered, alone=alone, alone_s=alone_s, crowd=crowd, crowd_s=crowd_s)


async def sample(
    engine: Engine, questions: Sequence[Question], *, streams: int, limit_s: float, progress: Progress
) -> Answers:
    """Ask the first of the questions alone, as many as `limit_s` (seconds) reaches for, and the same ones again in the
    crowd for its speed. `replies` are those given alone."""
    ask_one = partial(reply_to, engine)
    alone, alone_s = await _load(ask_one, questions, 1, progress, limit_s)
    again = questions[: len(alone)] if streams > 1 else ()
    crowd, crowd_s = await _load(ask_one, again, streams, progress, limit_s)
    return Answers(replies=alone, alone=alone, alone_s=alone_s, crowd=crowd, crowd_s=crowd_s)


async def _load(
    ask_one: AskOne, questions: Sequence[Question], streams: int, progress: Progress, limit_s: float | None
) -> tuple[tuple[Reply, ...], float]:
    """The replies in order, with `streams` questions under way at any time, and how long it took.

    After `limit_s` no further question is asked; the replies are then those to the first questions.
    """
    load = _Load(ask_one, questions, streams, progress, limit_s)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(streams, len(questions))):
            group.create_task(load.work())
    return tuple(load.replies[i] for i in range(len(load.replies))), load.seconds


class _Load:
    """One pass over the questions, shared by its workers."""

    def __init__(
        self,
        ask_one: AskOne,
        questions: Sequence[Question],
        streams: int,
        progress: Progress,
        limit_s: float | None,
    ) -> None:
        self.replies: dict[int, Reply] = {}
        self._ask_one, self._questions, self._streams, self._progress = ask_one, questions, streams, progress
        self._limit_s, self._started = limit_s, time.monotonic()
        self._next = iter(range(len(questions)))
        self._failed_in_a_row = 0
        self._label = "one at a time" if streams == 1 else f"{streams} at a time"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    async def work(self) -> None:
        for i in self._next:
            if self._limit_s is not None and i >= FEWEST_IN_TIME and self.seconds > self._limit_s:
                return
            self.replies[i] = reply = await self._reply(self._questions[i])
            self._failed_in_a_row = self._failed_in_a_row + 1 if reply.text is None else 0
            self._progress(self._label, len(self.replies), len(self._questions))

    async def _reply(self, question: Question) -> Reply:
        if self._failed_in_a_row >= GIVE_UP_AFTER:
            return Reply(text=None, error=GIVEN_UP, streams=self._streams)
        return msgspec.structs.replace(await self._ask_one(question), streams=self._streams)


async def reply_to(engine: Engine, question: Question) -> Reply:
    """One reply with its timings; why there is none, where there is none."""
    request = ChatRequest(messages=question.messages, max_tokens=question.max_tokens, temperature=0.0)
    try:
        answer = await _persist(lambda: ask(engine, request))
    except DutchdoorError as error:
        return Reply(text=None, error=error.message)
    return Reply(
        text=answer.text,
        finish_reason=answer.finish_reason,
        input_tokens=None if answer.usage is None else answer.usage.input_tokens,
        output_tokens=None if answer.usage is None else answer.usage.output_tokens,
        first_token_s=answer.first_token_s if answer.text else None,
        total_s=answer.total_s,
    )


async def _persist(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` gives, tried again where the infrastructure fails. Raises EngineError in the end."""
    for tried in range(1, TRIES + 1):
        try:
            async with asyncio.timeout(ANSWER_S):
                return await attempt()
        except (UsageError, BlockedElsewhereError):  # asking again would not help
            raise
        except (DutchdoorError, OSError, TimeoutError) as error:
            if tried == TRIES:
                raise _told(error) from error
            asked = getattr(error, "retry_after_s", None) or 0.0
            pause = max(PAUSE_S * 2 ** (tried - 1), min(asked, LONGEST_PAUSE_S))
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


def _told(error: Exception) -> DutchdoorError:
    if isinstance(error, DutchdoorError):
        return error
    if isinstance(error, TimeoutError):
        return EngineError(f"no answer within {ANSWER_S} seconds", hint="is the server overloaded?")
    return EngineError(f"the connection failed: {error}", hint="is the server up?")
