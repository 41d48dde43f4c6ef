"""How both sides are asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest

from dutchdoor.core import EngineError
from dutchdoor.drill import asking
from dutchdoor.drill.asking import Question, interview, sample, split, warm_up
from dutchdoor.engines.interface import ChatRequest, Chunk, EngineInfo, FinishReason, Message, Usage
from dutchdoor.vetting.runner import BelowGuard

Script = Callable[[str], str | Exception]


class Scripted:
    """An engine that answers by a function of the question, and counts how many it answers at a time."""

    def __init__(self, script: Script, *, seconds: float = 0.0, finish: FinishReason = "stop") -> None:
        self.info = EngineInfo(name="scripted", version="1", model="m", context_length=None)
        self.asked: list[str] = []
        self.most_at_once = self._now = 0
        self._script, self._seconds, self._finish = script, seconds, finish

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        question = request.messages[-1].content
        self.asked.append(question)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await asyncio.sleep(self._seconds)
            said = self._script(question)
            if isinstance(said, Exception):
                raise said
            yield Chunk(text=said)
            yield Chunk(finish_reason=self._finish, usage=Usage(input_tokens=3, output_tokens=2))
        finally:
            self._now -= 1

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PAUSE_S", 0.001)


def questions(count: int) -> list[Question]:
    return [
        Question(id=str(i), messages=(Message(role="user", content=str(i)),), max_tokens=8)
        for i in range(count)
    ]


def quiet(what: str, done: int, total: int) -> None: ...


def test_cases_are_split_evenly_and_each_belongs_to_one_load() -> None:
    for count in (1, 7, 8, 9, 40, 401):
        alone, crowd = split(count)
        assert sorted(alone + crowd) == list(range(count))
        assert len(alone) == (count if count < 8 else min(20, count // 2))
    alone, _ = split(400)
    assert [b - a for a, b in pairwise(alone)] == [20] * 19


async def test_each_case_is_asked_once_and_the_replies_are_in_order() -> None:
    engine = Scripted(lambda q: f"re {q}", seconds=0.002)
    seen: list[tuple[str, int, int]] = []
    answers = await interview(
        engine, questions(50), streams=4, limit_s=60, progress=lambda *told: seen.append(told)
    )
    assert [reply.text for reply in answers.replies] == [f"re {i}" for i in range(50)]
    assert sorted(engine.asked, key=int) == [str(i) for i in range(50)]
    assert (len(answers.alone), len(answers.crowd)) == (20, 30)
    assert engine.most_at_once == 4
    assert seen[19] == ("one at a time", 20, 20)
    assert seen[-1] == ("4 at a time", 30, 30)


async def test_one_stream_asks_everything_alone_whatever_the_limit() -> None:
    engine = Scripted(lambda q: q, seconds=0.002)
    answers = await interview(engine, questions(12), streams=1, limit_s=0.001, progress=quiet)
    assert (len(answers.alone), len(answers.crowd), engine.most_at_once) == (12, 0, 1)


async def test_cases_that_there_was_no_time_for_alone_are_asked_in_the_crowd() -> None:
    engine = Scripted(lambda q: q, seconds=0.02)
    answers = await interview(engine, questions(40), streams=4, limit_s=0.03, progress=quiet)
    assert 3 <= len(answers.alone) < 20
    assert len(answers.alone) + len(answers.crowd) == 40
    assert [reply.text for reply in answers.replies] == [str(i) for i in range(40)]


async def test_prompts_are_asked_as_far_as_the_time_reaches_and_again_in_the_crowd() -> None:
    engine = Scripted(lambda q: q, seconds=0.02)
    answers = await sample(engine, questions(20), streams=4, limit_s=0.03, progress=quiet)
    assert 3 <= len(answers.replies) < 20
    assert 3 <= len(answers.crowd) <= len(answers.replies)
    all_of_them = await sample(engine, questions(20), streams=4, limit_s=60, progress=quiet)
    assert (len(all_of_them.replies), len(all_of_them.crowd)) == (20, 20)


async def test_a_failure_is_tried_again_and_then_missing_and_never_an_answer() -> None:
    failing = {"1": 1, "2": 99}  # how often each fails

    def script(question: str) -> str | Exception:
        if failing.get(question, 0) > 0:
            failing[question] -= 1
            return EngineError("the wire was cut")
        return "fine"

    answers = await interview(Scripted(script), questions(4), streams=4, limit_s=60, progress=quiet)
    assert [reply.text for reply in answers.replies] == ["fine", "fine", None, "fine"]
    assert answers.replies[2].error == "the wire was cut"


async def test_a_dead_side_is_given_up_after_a_few_questions() -> None:
    engine = Scripted(lambda q: EngineError("down"))
    answers = await interview(engine, questions(100), streams=4, limit_s=60, progress=quiet)
    assert all(reply.text is None for reply in answers.replies)
    assert len(engine.asked) < 100
    assert answers.replies[-1].error == "not asked: 5 requests in a row had failed"


async def test_an_empty_answer_is_an_answer_without_a_first_token() -> None:
    answers = await interview(Scripted(lambda q: ""), questions(1), streams=4, limit_s=60, progress=quiet)
    (reply,) = answers.replies
    assert (reply.text, reply.error, reply.first_token_s) == ("", None, None)


async def test_a_block_by_a_filter_that_is_not_declared_is_missing_and_not_asked_again() -> None:
    engine = Scripted(lambda q: "no", finish="content_filter")
    answers = await interview(BelowGuard(engine), questions(1), streams=4, limit_s=60, progress=quiet)
    assert answers.replies[0].text is None
    assert len(engine.asked) == 1


async def test_a_side_that_never_answers_fails_at_the_warm_up() -> None:
    with pytest.raises(EngineError, match="down"):
        await warm_up(Scripted(lambda q: EngineError("down")))
