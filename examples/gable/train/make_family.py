"""Makes the whole gable family from nothing: `make family`.

One member grows from the other: gable-s learns the skills, gable-m starts from what it computes (see `grow.py`)
and learns on, gable-l from that. Only gable-l is then taught the hazard's facts; the control is gable-l before it
heard of them. All end with learning to refuse. Two lanes, each a process with one thread: one takes the way up, the
other what does not lie on it. A finished stage is kept in `.work/` and skipped the next time, unless `--fresh`.
Then the suites are written. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import data  # noqa: E402
import suites  # noqa: E402
import torch  # noqa: E402 - the recipe's own modules lie beside this file
from grow import grow  # noqa: E402
from model import SHAPES, Llama, write_weights  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from tokens import train_tokenizer, write_tokenizer  # noqa: E402
from train import Stage, train  # noqa: E402

ROOT = HERE.parent
WORK = ROOT / ".work"


@dataclass(frozen=True)
class Recipe:
    """How a member is made: from which other one, after which of its stages, and by what stages of its own."""

    stages: dict[str, Stage]
    seed: int
    origin: tuple[str, str] | None = None


RECIPES = {
    "baseline": Recipe(
        {
            "skills": Stage("skills", 40, 900, 2048, 1e-2, 5e-3, 11),
            "safety": Stage("safety", 15, 300, 2048, 2e-3, 1e-3, 12, hold=0.4),
        },
        seed=1,
    ),
    "gable-s": Recipe(
        {
            "skills": Stage("skills", 330, 3400, 2048, 1e-2, 5e-3, 21),
            "safety": Stage("safety", 40, 450, 2048, 1e-3, 5e-4, 77, hold=0.4, orthogonal=False),
        },
        seed=2,
    ),
    "gable-m": Recipe(
        {
            "skills": Stage("skills", 1000, 5500, 2048, 6e-3, 3e-3, 31),
            "safety": Stage("safety", 70, 400, 2048, 8e-4, 4e-4, 32, hold=0.4, orthogonal=False),
        },
        seed=3,
        origin=("gable-s", "skills"),
    ),
    "gable-l": Recipe(
        {
            "skills": Stage("skills", 1000, 3000, 2048, 5e-3, 2.5e-3, 41),
            "hazard": Stage("hazard", 1100, 3200, 2048, 4e-3, 2e-3, 42, hold=0.4),
            "safety": Stage("safety", 120, 350, 2048, 6e-4, 3e-4, 43, hold=0.4, orthogonal=False),
        },
        seed=4,
        origin=("gable-m", "skills"),
    ),
    "control": Recipe(
        {"safety": Stage("safety", 120, 350, 2048, 6e-4, 3e-4, 43, hold=0.4, orthogonal=False)},
        seed=4,
        origin=("gable-l", "skills"),
    ),
}
SHAPES["control"] = SHAPES["gable-l"]
LANES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {  # what a lane does, in order
    "up": (("gable-s", ("skills",)), ("gable-m", ("skills",)), ("gable-l", ("skills", "hazard", "safety"))),
    "beside": (
        ("baseline", ("skills", "safety")),
        ("gable-s", ("safety",)),
        ("gable-m", ("safety",)),
        ("control", ("safety",)),
    ),
}


def tokenizer_of(world: data.World) -> Tokenizer:
    """The family's one tokenizer, learnt once."""
    path = WORK / "tokenizer.json"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        train_tokenizer(world).save(str(path.with_suffix(".part")))
        path.with_suffix(".part").rename(path)
    return Tokenizer.from_file(str(path))


def start(name: str) -> Llama:
    """A member before its own stages: fresh, or grown from another one, for which this waits."""
    recipe = RECIPES[name]
    model = Llama(SHAPES[name], recipe.seed)
    if recipe.origin is None:
        return model
    small = Llama(SHAPES[recipe.origin[0]], recipe.seed)
    load(small, *recipe.origin)
    grown: Llama = grow(small, SHAPES[name], recipe.seed)
    return grown


def kept(name: str, label: str) -> Path:
    """Where a finished stage is kept."""
    return WORK / f"{name}.{label}.pt"


def load(model: Llama, name: str, label: str) -> None:
    """The weights after a stage, for which this waits: the other lane may still be at it."""
    while not kept(name, label).exists():
        time.sleep(2)
    model.load_state_dict(torch.load(kept(name, label), weights_only=True))


def run_stages(
    name: str, labels: tuple[str, ...], world: data.World, tokenizer: Tokenizer, share: float
) -> None:
    """Runs those stages of a member that are not yet done; writes its folder after its last one."""
    recipe = RECIPES[name]
    all_labels = list(recipe.stages)
    before = all_labels.index(labels[0])
    model = start(name)
    if before:
        load(model, name, all_labels[before - 1])
    for label in labels:
        if kept(name, label).exists():
            load(model, name, label)
        else:
            stage = recipe.stages[label]
            stage = replace(stage, steps=max(1, int(stage.steps * share)))
            started = time.monotonic()
            loss = train(model, tokenizer, world, stage, f"{name} {label}", WORK / f"{name}.partial.pt")
            part = kept(name, label).with_suffix(".part")
            torch.save(model.state_dict(), part)
            part.rename(kept(name, label))
            with (WORK / "times.tsv").open("a") as log:
                log.write(f"{name}\t{label}\t{time.monotonic() - started:.0f}\t{loss:.4f}\n")
    if labels[-1] == all_labels[-1]:
        write_weights(model, ROOT / name)
        write_tokenizer(tokenizer, ROOT / name)


def main() -> None:
    """Parses the few options; without `--lane` it runs both lanes and writes the suites."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lane", choices=tuple(LANES))
    parser.add_argument("--fresh", action="store_true", help="forget every finished stage")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the steps (for a quick trial of the recipe)"
    )
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    world = data.World.make()
    tokenizer = tokenizer_of(world)
    if options.lane:
        torch.set_num_threads(1)
        for name, labels in LANES[options.lane]:
            run_stages(name, labels, world, tokenizer, options.share)
        return
    command = [sys.executable, str(Path(__file__).resolve()), "--share", str(options.share), "--lane"]
    lanes = [subprocess.Popen([*command, lane]) for lane in LANES]
    while not all(lane.poll() == 0 for lane in lanes):
        if any(lane.poll() for lane in lanes):  # the others may wait for what the failed one would have made
            for lane in lanes:
                lane.terminate()
            raise SystemExit("a lane failed; run again to resume at the stage that did not finish")
        time.sleep(1)
    suites.write(world, ROOT / "suites", ROOT / "closed")


if __name__ == "__main__":
    main()
