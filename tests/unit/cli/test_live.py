"""What a person sees while models are attacked and asked."""

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from dutchdoor.cli.live import Display
from dutchdoor.vetting.bench import Step


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(steps: Sequence[Step], seconds: float) -> list[str]:
    """The lines of the display after these steps."""
    clock, console = Clock(), Console(file=io.StringIO(), width=120, force_terminal=False)
    display = Display(console, clock)
    for step in steps:
        display.step(step)
    clock.now = seconds
    with console.capture() as capture:
        console.print(display.render())
    return [" ".join(line.replace("━", " ").split()) for line in capture.get().splitlines()]


def test_each_model_at_work_has_a_line_and_all_of_it_a_time_left() -> None:
    lines = shown(
        [
            Step(setting="s tampered", state="attacking", detail="loss 0.52", done=30, total=90, rate=6,
                 seconds_left=10, after_attack=True),
            Step(setting="m guarded", state="asking", detail="skill.x", done=300, total=400, rate=50, seconds_left=2),
            Step(setting="l guarded", state="done", done=400, total=400),
            Step(setting="p guarded", state="waiting", total=400),
        ],
        seconds=70,
    )  # fmt: skip
    assert lines[0] == "s tampered attacking loss 0.52 30/90 6/s 0:10 left"
    assert lines[1] == "m guarded asking skill.x 300/400 50/s 0:02 left"
    # (1/6 + 3/4 + 1 + 0) / 4 of it in 70 seconds
    assert lines[2] == "1 of 4 settings done, 1:10 so far, about 1:16 left"


def test_nothing_is_foretold_from_nothing() -> None:
    lines = shown(
        [Step(setting="s tampered", state="attacking", detail="starts", total=90, after_attack=True)],
        seconds=9,
    )
    assert lines == ["s tampered attacking starts", "0 of 1 settings done, 0:09 so far"]


@pytest.mark.parametrize("state", ["loading", "asking"])
def test_what_was_done_is_never_taken_back(state: str) -> None:
    attacked = Step(setting="s", state="attacking", done=90, total=90, after_attack=True)
    then = Step(setting="s", state=state, total=400, after_attack=True)  # type: ignore[arg-type]
    assert shown([attacked, then], seconds=10)[-1] == "0 of 1 settings done, 0:10 so far, about 0:10 left"


def test_before_anything_is_known_nothing_is_shown() -> None:
    assert shown([], seconds=3) == [""]


def test_what_a_suite_has_come_to_is_shown_below_its_model() -> None:
    asking = Step(
        setting="m guarded",
        state="asking",
        detail="hazard.x",
        done=300,
        total=400,
        so_far=lambda: "1.0% (0.3% to 2.6%), at most 5.0%: pass so far",
    )
    lines = shown([asking], seconds=1)
    assert lines[1] == "m guarded hazard.x: 1.0% (0.3% to 2.6%), at most 5.0%: pass so far"


def test_a_log_gets_a_plain_line_now_and_then_and_none_of_what_is_short() -> None:
    clock, log = Clock(), io.StringIO()
    display = Display(Console(quiet=True), clock, plain=log)
    for clock.now in range(25):
        display.step(
            Step(setting="m", state="asking", detail="skill.x", done=int(clock.now), total=40, rate=1.0)
        )
        assert clock.now >= 10 or log.getvalue() == ""
    assert log.getvalue().splitlines() == [
        "0 of 1 settings done, 0:10 so far, about 0:30 left; now m asking skill.x, 10/40, 1/s",
        "0 of 1 settings done, 0:20 so far, about 0:20 left; now m asking skill.x, 20/40, 1/s",
    ]
