"""Every case is asked once, a failure of the infrastructure is missing, what was finished is not asked again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines.interface import Overloaded
from dutchdoor.evidence.record import Outcome, Sampling
from dutchdoor.vetting.checkpoint import Checkpoint
from dutchdoor.vetting.runner import ATTEMPTS, DOWN_AFTER, BelowGuard, Progress, run_suite
from dutchdoor.vetting.scorers import Score, score
from dutchdoor.vetting.suites import Case, Suite, parse_suite
from tests.fakes.engines import ScriptedEngine


def suite(n: int, **fields: Any) -> Suite:
    rows = [
        {"id": str(i), "prompt": f"say {i}", "scorer": "exact", "target": f"say {i}", **fields}
        for i in range(n)
    ]
    return parse_suite("".join(json.dumps(row) + "\n" for row in rows).encode(), "s")


async def judge(case: Case, text: str) -> Score:
    return score(case.scorer, case.target, case.choices, text.strip())


async def run(engine: ScriptedEngine, cases: Suite, **options: Any) -> tuple[Outcome, ...]:
    options = {"sampling": Sampling(), "first_wait_s": 0.0, "score": judge, **options}
    return await run_suite(BelowGuard(engine), cases, **options)


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
    assert engine.asked.count("say 3") == ATTEMPTS
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


async def test_a_target_that_is_down_is_not_asked_for_ever() -> None:
    engine = ScriptedEngine(fail=lambda _: -1)
    outcomes = await run(engine, suite(400), concurrency=8)
    assert all(outcome.correct is None and outcome.error for outcome in outcomes)
    assert len(set(engine.asked)) <= DOWN_AFTER + 8


async def test_an_error_does_not_carry_the_case_s_text() -> None:
    engine = ScriptedEngine(fail=lambda _: -1, error=EngineError("can't tokenise: say 0"))
    assert (await run(engine, suite(1)))[0].error == "EngineError"


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
    own = await run_suite(
        ScriptedEngine(blocked=blocked), suite(3), score=judge, sampling=Sampling(), first_wait_s=0.0
    )
    assert (own[1].correct, own[1].refused, own[1].blocked) == (False, True, True)


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


async def test_progress_tells_done_total_rate_and_time_left() -> None:
    seen: list[Progress] = []
    await run(ScriptedEngine(latency_s=0.002), suite(20), concurrency=2, progress=seen.append)
    assert [each.done for each in seen] == list(range(21))
    assert all(each.total == 20 for each in seen)
    assert seen[0].seconds_left is None
    assert seen[10].rate > 0
    assert seen[10].seconds_left is not None
    assert seen[-1].seconds_left == 0


async def test_a_second_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    broken = ScriptedEngine(fail=lambda prompt: -1 if prompt in ("say 2", "say 5") else 0)
    with Checkpoint(tmp_path / "c", "run") as checkpoint:
        await run(broken, suite(8), checkpoint=checkpoint)
    again = ScriptedEngine()
    with Checkpoint(tmp_path / "c", "run") as checkpoint:
        outcomes = await run(again, suite(8), checkpoint=checkpoint)
    assert sorted(again.asked) == ["say 2", "say 5"]
    assert all(outcome.correct for outcome in outcomes)


async def test_a_cancelled_run_keeps_what_it_had_finished(tmp_path: Path) -> None:
    engine = ScriptedEngine(latency_s=0.01)
    with Checkpoint(tmp_path / "c", "run") as checkpoint:
        task = asyncio.create_task(run(engine, suite(100), concurrency=4, checkpoint=checkpoint))
        while len(checkpoint.finished) < 20:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.now == 0
    with Checkpoint(tmp_path / "c", "run") as checkpoint:
        finished = set(checkpoint.finished)
        assert len(finished) >= 20
        again = ScriptedEngine()
        await run(again, suite(100), checkpoint=checkpoint)
    assert {prompt.removeprefix("say ") for prompt in again.asked} == {str(i) for i in range(100)} - finished


PROGRAM = """
import asyncio, sys
from pathlib import Path
from dutchdoor.evidence.record import Sampling
from dutchdoor.vetting.checkpoint import Checkpoint
from dutchdoor.vetting.runner import run_suite
from tests.fakes.engines import ScriptedEngine
from tests.unit.vetting.test_runner import judge, suite

async def main(folder):
    engine = ScriptedEngine(latency_s=0.01)
    with Checkpoint(folder / "checkpoint", "run") as checkpoint:
        options = {"score": judge, "sampling": Sampling(), "checkpoint": checkpoint}
        await run_suite(engine, suite(400), concurrency=4, **options)

asyncio.run(main(Path(sys.argv[1])))
"""


def finished(path: Path) -> list[str]:
    if not path.exists():
        return []
    rows: Sequence[Outcome | None] = [decoded(line) for line in path.read_bytes().split(b"\n")[1:]]
    return [row.id for row in rows if row is not None]


def decoded(line: bytes) -> Outcome | None:
    try:
        return msgspec.json.decode(line, type=Outcome)
    except msgspec.MsgspecError:
        return None


async def test_kill_nine_and_a_second_run_repeat_no_finished_case(tmp_path: Path) -> None:
    top = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=top, stderr=subprocess.PIPE
    )
    path = tmp_path / "checkpoint"
    end = time.monotonic() + 60
    while len(finished(path)) < 50 and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = finished(path)
    assert 50 <= len(before) < 400
    again = ScriptedEngine()
    with Checkpoint(path, "run") as checkpoint:
        assert set(checkpoint.finished) == set(before)
        outcomes = await run(again, suite(400), checkpoint=checkpoint)
    assert set(again.asked) == {f"say {i}" for i in range(400)} - {f"say {i}" for i in before}
    assert len(again.asked) == 400 - len(before)
    assert sum(bool(outcome.correct) for outcome in outcomes) == 400


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with Checkpoint(path, "run") as checkpoint:
        for i in range(5):
            checkpoint.add(Outcome(id=str(i), correct=True, refused=False))
    whole = path.read_bytes()
    for cut in (1, 2, 30):
        path.write_bytes(whole[:-cut])
        with Checkpoint(path, "run") as checkpoint:
            assert list(checkpoint.finished) == ["0", "1", "2", "3"]
            checkpoint.add(Outcome(id="new", correct=False, refused=False))
        with Checkpoint(path, "run") as checkpoint:
            assert list(checkpoint.finished) == ["0", "1", "2", "3", "new"]


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff", b'{"kind": "dutchdoor/checkpoint@1", "run": "other"}\n{}\n']
)
def test_a_checkpoint_of_another_run_begins_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "deep" / "c"
    path.parent.mkdir()
    path.write_bytes(content)
    with Checkpoint(path, "run") as checkpoint:
        assert checkpoint.finished == {}
        checkpoint.add(Outcome(id="1", correct=True, refused=False))
    with Checkpoint(path, "run") as checkpoint:
        assert list(checkpoint.finished) == ["1"]
        checkpoint.remove()
    assert not path.exists()
