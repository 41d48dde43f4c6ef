"""The live display of `vet` and `up`: each model at work with its rate and what it has come to, all of it with the
time left.

Shows and remembers; what it shows comes as `dutchdoor.vetting.bench.Step`. When stderr is no terminal there is
at most a plain line every ten seconds, and only where something takes longer than that.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # what measures is imported when something is to be measured
    from dutchdoor.vetting.bench import Step

REFRESH_HZ = 8
BAR, WHOLE_BAR = 16, 40  # columns
ATTACK_SHARE = 0.5  # of a setting that is attacked first; the suites take about as long again
LEAST_SHARE = 0.02  # of all, before a time is foretold
PLAIN_EVERY_S = 10.0


class Display:
    """Use as a context; `step` takes in what happens in a setting, `say` begins a part of the way."""

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        *,
        plain: TextIO | None = None,
    ) -> None:
        """`plain` is where lines go when the console is silent; null: nowhere."""
        self._console, self._clock, self._plain = console, clock, plain
        self._steps: dict[str, Step] = {}
        self._shares: dict[str, float] = {}
        self._started = self._said = clock()
        self._live = Live(
            console=console, refresh_per_second=REFRESH_HZ, transient=True, get_renderable=self.render
        )

    def step(self, step: "Step") -> None:
        """Take in what happens now."""
        self._steps[step.setting] = step
        self._shares[step.setting] = _share(step, self._shares.get(step.setting, 0.0))
        if self._console.quiet and self._plain is not None and self._clock() - self._said >= PLAIN_EVERY_S:
            self._said = self._clock()
            print(self.plain_line(step), file=self._plain, flush=True)

    def say(self, part: str) -> None:
        """What begins now; it stays on the screen."""
        if not self._console.quiet:
            spent = clock_face(self._clock() - self._started)
            self._console.print(Text.assemble((f"{spent}  ", "dim"), (part, "bold")))

    def __enter__(self) -> Self:
        if not self._console.quiet:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._console.quiet:
            self._live.stop()

    def render(self) -> RenderableType:
        """What runs, a line each; below it all of it."""
        if not self._steps:
            return Text()
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for _ in range(6):
            table.add_column(no_wrap=True)
        for each in self._steps.values():
            if each.state in ("attacking", "loading", "asking"):
                table.add_row(*_row(each))
        return Group(table, *self._verdicts(), self._whole())

    def _verdicts(self) -> list[RenderableType]:
        """What the suites at hand have come to, a line each; beside the bars there is no room for it."""
        asking = [each for each in self._steps.values() if each.state == "asking" and each.so_far]
        told = [(each, each.so_far() if each.so_far else "") for each in asking]
        return [
            Text(f"{each.setting} {each.detail}: {text}", "dim", no_wrap=True) for each, text in told if text
        ]

    def plain_line(self, step: "Step") -> str:
        """How far all of it is and what happens in one setting, for a log."""
        parts = [f"{step.setting} {step.state} {step.detail}".strip()]
        if step.total:
            parts.append(f"{step.done}/{step.total}")
        if step.rate:
            parts.append(f"{step.rate:.0f}/s")
        if step.so_far and (told := step.so_far()):
            parts.append(told)
        return f"{self._summary()}; now {', '.join(parts)}"

    def _whole(self) -> RenderableType:
        share = sum(self._shares.values()) / len(self._steps)
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(
            ProgressBar(total=1.0, completed=share, width=WHOLE_BAR),
            Text(self._summary(), "dim"),
        )
        return line

    def _summary(self) -> str:
        steps = list(self._steps.values())
        over = sum(each.state in ("done", "failed") for each in steps)
        share = sum(self._shares.values()) / len(steps)
        spent = self._clock() - self._started
        left = f", about {clock_face(spent / share - spent)} left" if LEAST_SHARE < share < 1 else ""
        return f"{over} of {len(steps)} settings done, {clock_face(spent)} so far{left}"


def _row(step: "Step") -> tuple[RenderableType, ...]:
    """Setting, what happens in it, how far, how fast, how long still."""
    bar = ProgressBar(total=max(1, step.total), completed=step.done, width=BAR)
    counted = f"{step.done}/{step.total}" if step.state == "asking" or step.done else ""
    rate = f"{step.rate:.0f}/s" if step.rate else ""
    left = "" if step.seconds_left is None else f"{clock_face(step.seconds_left)} left"
    return step.setting, f"{step.state} {step.detail}".strip(), bar, counted, rate, left


def _share(step: "Step", before: float) -> float:
    """How much of a setting is done, from 0 to 1. It never falls back."""
    if step.state in ("done", "failed"):
        return 1.0
    done = step.done / step.total if step.total else 0.0
    if step.state == "attacking":
        return max(before, ATTACK_SHARE * done)
    first = ATTACK_SHARE if step.after_attack else 0.0
    return max(before, first + (1 - first) * done) if step.state == "asking" else before


def clock_face(seconds: float) -> str:
    """Minutes and seconds: 1:05; with hours from one on: 2:01:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
