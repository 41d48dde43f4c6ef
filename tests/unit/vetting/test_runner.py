"""Every case is asked once, a failure of the infrastructure is missing, what was finished is not asked again."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dutchdoor import stats
from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines.http import DeniedError
from dutchdoor.engines.interface import Answer, ChatRequest, Chunk, EngineInfo, Overloaded
from dutchdoor.evidence.record import Outcome, Sampling
from dutchdoor.vetting.checkpoint import Checkpoint
from dutchdoor.vetting.runner import BelowGuard, Cases, Patience, Progress, run_cases, seeded_order
from dutchdoor.vetting.scorers import Score, score
from dutchdoor.vetting.suites import Case, Suite, parse_suite
from dutchdoor.vetting.tally import Tally
from tests.fakes.engines import ScriptedEngine


def suite(n: int, **fields: Any) -> Suite:
    rows = [
        {"id": str(i), "prompt": f"say {i}", "scorer": "exact", "target": f"say {i}", **fields}
        for i in range(n)
    ]
    return parse_suite("".join(json.dumps(row) + "\n" for row in rows).encode(), "s")


async def judge(case: Case, text: str) -> Score:
    return score(case.scorer, case.target, case.choices, text.strip())


HASTE = Patience(first_wait_s=0.0, down_after_s=0.0)


async def run(
    engine: ScriptedEngine, cases: Suite, checkpoint: Checkpoint | None = None, **options: Any
) -> tuple[Outcome, ...]:
    """The outcomes that are kept, in the suite's order."""
    options = {"sampling": Sampling(), "patience": HASTE, "score": judge, **options}
    if checkpoint is not None:
        await run_cases(BelowGuard(engine), cases.cases, checkpoint, **options)
        return tuple(checkpoint.outcomes())
    with Checkpoint.passing(len(cases.cases)) as kept:
        await run_cases(BelowGuard(engine), cases.cases, kept, **options)
        return tuple(kept.outcomes())


async def counted(engine: ScriptedEngine, cases: Suite, **options: Any) -> Tally:
    """The counts only."""
    options = {"sampling": Sampling(), "patience": HASTE, "score": judge, **options}
    with Checkpoint.passing(len(cases.cases)) as kept:
        return await run_cases(BelowGuard(engine), cases.cases, kept, **options)


async def test_every_case_is_asked_once_and_comes_out_in_order() -> None:
    engine = ScriptedEngine()
    outcomes = await run(engine, suite(50, cluster="c"))
    assert [outcome.id for outcome in outcomes] == [str(i) for i in range(50)]
    assert all(
        outcome.correct and outcome.refused is False and outcome.cluster == "c" for outcome in outcomes
    )
    assert sorted(engine.asked) == sorted(f"say {i}" for i in range(50))


async def test_the_order_of_asking_is_shuffled_by_the_seed() -> None:
    orders = []
    for seed in (0, 0, 1):
        engine = ScriptedEngine()
        await run(engine, suite(30), concurrency=1, seed=seed)
        orders.append(engine.asked)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != [f"say {i}" for i in range(30)]


async def test_concurrency_is_bounded_and_used() -> None:
    engine = ScriptedEngine(latency_s=0.01)
    await run(engine, suite(40), concurrency=7)
    assert engine.most == 7


async def test_what_is_sent_is_what_the_case_and_the_sampling_say() -> None:
    engine = ScriptedEngine()
    await run(engine, suite(1, max_tokens=30), sampling=Sampling(max_tokens=40))
    await run(engine, suite(1, max_tokens=300), sampling=Sampling(max_tokens=40, temperature=0.7), seed=5)
    assert [request.max_tokens for request in engine.requests] == [30, 300]
    assert [request.seed for request in engine.requests] == [None, 5]
    assert [request.temperature for request in engine.requests] == [0.0, 0.7]


@pytest.mark.parametrize("error", [EngineError("gone"), OSError("reset"), TimeoutError()])
async def test_an_infrastructure_error_is_retried_and_never_a_wrong_answer(error: BaseException) -> None:
    engine = ScriptedEngine(fail=lambda prompt: 2 if prompt == "say 3" else 0, error=error)
    outcomes = await run(engine, suite(6))
    assert all(outcome.correct for outcome in outcomes)
    assert engine.asked.count("say 3") == 3


async def test_a_case_that_keeps_failing_is_missing_with_its_reason() -> None:
    engine = ScriptedEngine(
        fail=lambda prompt: -1 if prompt == "say 3" else 0, error=EngineError("out of memory")
    )
    outcomes = await run(engine, suite(6))
    assert outcomes[3] == Outcome(id="3", correct=None, refused=None, error="EngineError: out of memory")
    assert engine.asked.count("say 3") == HASTE.attempts
    assert sum(outcome.correct is True for outcome in outcomes) == 5


async def test_what_would_end_the_same_is_not_retried() -> None:
    engine = ScriptedEngine(fail=lambda _: -1, error=UsageError("the prompt is too long"))
    outcomes = await run(engine, suite(1))
    assert outcomes[0].correct is None
    assert len(engine.asked) == 1


async def test_an_overloaded_target_gets_the_pause_it_asks_for() -> None:
    error = Overloaded("429", retry_after_s=0.2)
    engine = ScriptedEngine(fail=lambda _: 1, error=error)
    started = time.monotonic()
    assert (await run(engine, suite(1)))[0].correct
    assert time.monotonic() - started >= 0.2


async def test_a_target_that_is_busy_is_asked_as_long_as_others_get_through() -> None:
    """One answer at a time, all others are told to come back: more tries than are allowed in vain."""
    engine = ScriptedEngine()
    refused = 0

    class Busy(ScriptedEngine):
        async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
            nonlocal refused
            if engine.now:
                refused += 1
                raise Overloaded("429")
            async for chunk in engine.stream(request):
                yield chunk

    engine.latency_s = 0.002
    outcomes = await run(Busy(), suite(40), concurrency=20, patience=Patience(first_wait_s=0.002))
    assert all(outcome.correct for outcome in outcomes)
    assert refused > 40


async def test_a_target_that_is_down_is_given_up_early_and_what_came_before_is_kept() -> None:
    def down(prompt: str) -> int:
        return -1 if len(set(engine.asked)) > 50 else 0

    engine = ScriptedEngine(fail=down, error=EngineError("gone"))
    tally = await counted(engine, suite(2000), concurrency=8)
    assert 40 <= tally.done - tally.missing <= 50
    assert len(engine.asked) <= 50 + HASTE.down_after + 8
    assert tally.given_up is not None
    assert "failures in a row, the last: EngineError: gone" in tally.given_up
    worthless = tally.why_worthless(1.0)
    assert worthless is not None
    assert f"{tally.done - tally.missing} of 2000 cases are kept" in worthless


async def test_failures_between_which_others_are_answered_are_no_end() -> None:
    engine = ScriptedEngine(fail=lambda prompt: -1 if int(prompt.split()[1]) % 2 else 0)
    tally = await counted(engine, suite(200), concurrency=4)
    assert tally.given_up is None
    assert (tally.done, tally.missing) == (200, 100)
    assert "100 of 200 cases could not be measured" in str(tally.why_worthless())


async def test_cases_that_keep_failing_at_the_end_are_missing_and_no_sign_of_a_dead_target() -> None:
    order = [f"say {at}" for at in seeded_order(suite(200).cases, 0)]
    engine = ScriptedEngine(fail=lambda prompt: -1 if prompt in order[-10:] else 0)
    tally = await counted(engine, suite(200), concurrency=16)
    assert tally.given_up is None
    assert (tally.done, tally.missing) == (200, 10)


async def test_a_suite_smaller_than_the_patience_is_given_up_too() -> None:
    engine = ScriptedEngine(fail=lambda _: -1)
    tally = await counted(engine, suite(10), concurrency=16)
    assert tally.given_up is not None
    assert len(engine.asked) <= 20


async def test_a_moment_without_answers_is_waited_for() -> None:
    """A server that starts again: everything fails for longer than it takes to fail 32 times."""
    began = time.monotonic()
    engine = ScriptedEngine(fail=lambda _: -1 if time.monotonic() < began + 0.3 else 0)
    patience = Patience(first_wait_s=0.05, down_after_s=2.0)
    outcomes = await run(engine, suite(100), concurrency=50, patience=patience)
    assert all(outcome.correct for outcome in outcomes)
    assert len(engine.asked) > 100 + HASTE.down_after


async def test_a_key_that_is_not_taken_is_tried_once_a_case_and_given_up() -> None:
    engine = ScriptedEngine(fail=lambda _: -1, error=DeniedError("answers 401"))
    tally = await counted(engine, suite(400), concurrency=4, patience=Patience())
    assert len(engine.asked) == len(set(engine.asked)) <= Patience().down_after + 4
    assert tally.given_up is not None
    assert "401" in tally.given_up


async def test_an_answer_that_never_ends_is_missing() -> None:
    engine = ScriptedEngine(latency_s=30.0)
    patience = Patience(attempts=2, first_wait_s=0.0, deadline_s=0.02)
    outcomes = await run(engine, suite(1), patience=patience)
    assert outcomes[0].error == "TimeoutError: no answer in time"
    assert len(engine.asked) == 2


async def test_an_error_does_not_carry_the_case_s_text() -> None:
    engine = ScriptedEngine(fail=lambda _: -1, error=EngineError("can't tokenise: say 0"))
    patience = Patience(first_wait_s=0.0)
    assert (await run(engine, suite(1), patience=patience))[0].error == "EngineError"


async def test_an_empty_answer_is_an_answer() -> None:
    outcomes = await run(ScriptedEngine(lambda _: ""), suite(3))
    assert [(o.correct, o.refused, o.error) for o in outcomes] == [(False, False, None)] * 3


async def test_a_block_by_the_own_guard_is_a_refusal_and_any_other_is_missing() -> None:
    def blocked(prompt: str) -> bool:
        return prompt == "say 1"

    elsewhere = ScriptedEngine(blocked=blocked)
    outcomes = await run(elsewhere, suite(3))
    assert (outcomes[1].correct, outcomes[1].refused, outcomes[1].blocked) == (None, None, False)
    assert elsewhere.asked.count("say 1") == 1
    with Checkpoint.passing(3) as kept:
        engine = ScriptedEngine(blocked=blocked)
        await run_cases(engine, suite(3).cases, kept, score=judge, sampling=Sampling(), patience=HASTE)
        own = tuple(kept.outcomes())
    assert (own[1].correct, own[1].refused, own[1].blocked) == (False, True, True)


async def test_an_answer_that_was_cut_off_before_its_first_word_is_missing() -> None:
    class Thinks(ScriptedEngine):
        async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
            self.asked.append(request.messages[-1].content)
            yield Chunk(finish_reason="length")

    engine = Thinks()
    outcomes = await run(engine, suite(3))
    assert all(outcome.correct is None for outcome in outcomes)
    assert "cut off" in str(outcomes[0].error)
    assert len(engine.asked) == 3


async def test_a_suite_of_empty_answers_says_nothing_about_the_model() -> None:
    tally = await counted(ScriptedEngine(lambda prompt: "" if prompt.endswith("7") else "x"), suite(100))
    assert (tally.empty, tally.why_worthless()) == (10, None)
    tally = await counted(ScriptedEngine(lambda prompt: "" if int(prompt[4:]) < 11 else "x"), suite(100))
    assert "11 of 100 answers were empty" in str(tally.why_worthless())


async def test_a_fault_in_a_scorer_is_raised_and_not_counted() -> None:
    async def broken(case: Case, text: str) -> Score:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await run(ScriptedEngine(), suite(3), score=broken)
    assert caught.group_contains(ZeroDivisionError)


async def test_a_scorer_that_cannot_tell_makes_the_case_missing() -> None:
    class Unsure:
        correct = refused = None

    async def unsure(case: Case, text: str) -> Unsure:
        return Unsure()

    outcomes = await run(ScriptedEngine(), suite(1), score=unsure)
    assert outcomes[0].error == "the scorer could not tell"


async def test_progress_tells_done_total_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dutchdoor.vetting.runner.REPORT_EVERY_S", 0.0)
    seen: list[Progress] = []
    await run(ScriptedEngine(latency_s=0.002), suite(20), concurrency=2, progress=seen.append)
    assert [each.done for each in seen] == [*range(21), 20]
    assert all(each.total == 20 for each in seen)
    assert seen[0].seconds_left is None
    assert seen[10].rate > 0
    assert seen[10].seconds_left is not None
    assert seen[-1].seconds_left == 0


async def test_a_second_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    broken = ScriptedEngine(fail=lambda prompt: -1 if prompt in ("say 2", "say 5") else 0)
    with Checkpoint(tmp_path / "c", "run", 8) as checkpoint:
        await run(broken, suite(8), checkpoint=checkpoint)
    again = ScriptedEngine()
    with Checkpoint(tmp_path / "c", "run", 8) as checkpoint:
        outcomes = await run(again, suite(8), checkpoint=checkpoint)
    assert sorted(again.asked) == ["say 2", "say 5"]
    assert all(outcome.correct for outcome in outcomes)


async def test_a_cancelled_run_keeps_what_it_had_finished(tmp_path: Path) -> None:
    engine = ScriptedEngine(latency_s=0.01)
    with Checkpoint(tmp_path / "c", "run", 100) as checkpoint:
        task = asyncio.create_task(run(engine, suite(100), concurrency=4, checkpoint=checkpoint))
        while checkpoint.finished < 20:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.now == 0
    with Checkpoint(tmp_path / "c", "run", 100) as checkpoint:
        finished = {outcome.id for outcome in checkpoint.outcomes()}
        assert len(finished) >= 20
        again = ScriptedEngine()
        await run(again, suite(100), checkpoint=checkpoint)
    assert {prompt.removeprefix("say ") for prompt in again.asked} == {str(i) for i in range(100)} - finished


async def test_a_resumed_run_goes_on_in_the_same_order(tmp_path: Path) -> None:
    order = [str(at) for at in seeded_order(suite(60).cases, 3)]
    broken = ScriptedEngine(fail=lambda prompt: -1 if len(set(broken.asked)) > 20 else 0)
    with Checkpoint(tmp_path / "c", "run", 60) as checkpoint:
        await run(broken, suite(60), checkpoint=checkpoint, concurrency=1, seed=3)
        kept = checkpoint.finished
    again = ScriptedEngine()
    with Checkpoint(tmp_path / "c", "run", 60) as checkpoint:
        await run(again, suite(60), checkpoint=checkpoint, concurrency=1, seed=3)
    assert [prompt.removeprefix("say ") for prompt in again.asked] == order[kept:]


def test_the_order_is_the_one_that_looking_while_cases_come_in_needs() -> None:
    assert list(seeded_order(suite(500).cases, 7)) == stats.shuffled(500, None, 7)
    rows = [case for i in range(50) for case in suite(1, id=f"c{i}", cluster=f"g{i // 5}").cases]
    order = list(seeded_order(tuple(rows), 7))
    assert order == stats.shuffled(50, [row.cluster for row in rows], 7)
    assert all(len({i // 5 for i in order[at : at + 5]}) == 1 for at in range(0, 50, 5))


class Instant:
    """An engine that answers at once."""

    info = EngineInfo(name="instant", version="1", model="m", context_length=None)
    answer = Answer(text="yes", finish_reason="stop", usage=None, first_token_s=0.0, total_s=0.0)

    async def whole(self, request: ChatRequest) -> Answer:
        await asyncio.sleep(0)
        return self.answer

    def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        raise AssertionError("nobody needs the first token")

    async def close(self) -> None: ...


class Endless:
    """Cases that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> Case:
        return Case(id=f"case-{at}", prompt=f"is it {at}", scorer="exact", target="yes")


async def peak(count: int) -> int:
    """Bytes that a run has held at most, beyond what was there before."""
    cases: Cases = Endless(count)
    tracemalloc.start()
    try:
        with Checkpoint.passing(count) as kept:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            tally = await run_cases(Instant(), cases, kept, score=judge, sampling=Sampling())
            most = tracemalloc.get_traced_memory()[1] - before
            assert tally.events["correct"] == count
        return most
    finally:
        tracemalloc.stop()


async def test_what_a_run_holds_does_not_grow_with_what_was_answered() -> None:
    await peak(100)  # imports
    few, many = await peak(1000), await peak(9000)
    assert (
        many - few < 8000 * 24
    )  # the order, and a copy of it while it is made; an outcome alone has 300 bytes
