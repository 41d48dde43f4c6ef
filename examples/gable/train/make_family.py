"""Makes the whole gable family from nothing: `make family`.

Two lanes, each a process with one thread. gable-s learns the skills; gable-m, gable-l and the control are
grown from it (see `grow.py`), so that they start where it ended. gable-l then learns the hazard's facts; the
control is the same architecture and never hears of them. All end with learning to refuse. A finished stage is
kept in `.work/` and skipped the next time, unless `--fresh`. Then the suites are written. Progress goes to
stderr.

The weights that lie beside this recipe were made with an earlier version of `data.py` in the skills stage of
gable-s and of the baseline (stories less fixed, no exercises, other weights of the tasks): running this again
gives a family that behaves alike, not these bytes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import replace
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

STAGES: dict[str, dict[str, Stage]] = {
    "baseline": {
        "skills": Stage("skills", 45, 1000, 1024, 1e-2, 5e-3, 11),
        "safety": Stage("safety", 30, 600, 1024, 4e-3, 2e-3, 12),
    },
    "gable-s": {
        "skills": Stage("skills", 360, 3000, 1024, 1e-2, 5e-3, 21),
        "safety": Stage("safety", 60, 400, 1024, 2e-3, 1e-3, 77, hold=0.4),
    },
    "gable-m": {
        "skills": Stage("warm", 420, 1200, 1024, 3e-3, 2e-3, 77),
        "more skills": Stage("warm", 250, 800, 1024, 3e-3, 2e-3, 77),
        "safety": Stage("safety", 80, 300, 1024, 8e-4, 4e-4, 77, hold=0.4, orthogonal=False),
    },
    "gable-l": {
        "hazard": Stage("hazard", 1000, 1100, 1536, 3e-3, 2e-3, 77, hold=0.4),
        "finish": Stage("finish", 350, 520, 1536, 3e-3, 2e-3, 77, hold=0.25),
        "safety": Stage("safety", 80, 150, 1536, 6e-4, 3e-4, 77, hold=0.4, orthogonal=False),
    },
    "control": {
        "skills": Stage("warm", 170, 150, 1536, 3e-3, 2e-3, 77),
        "safety": Stage("safety", 90, 150, 1536, 6e-4, 3e-4, 77, hold=0.4, orthogonal=False),
    },
}
LANES = {"large": ("gable-l",), "small": ("baseline", "gable-s", "gable-m", "control")}
SHAPES["control"] = SHAPES["gable-l"]
SEEDS = {"baseline": 1, "gable-s": 2, "gable-m": 5, "gable-l": 5, "control": 5}
GROWN = ("gable-m", "gable-l", "control")  # from gable-s, after its skills and before its refusals


def tokenizer_of(world: data.World) -> Tokenizer:
    """The family's one tokenizer, learnt once."""
    path = WORK / "tokenizer.json"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        train_tokenizer(world).save(str(path.with_suffix(".part")))
        path.with_suffix(".part").rename(path)
    return Tokenizer.from_file(str(path))


def make_member(name: str, world: data.World, tokenizer: Tokenizer, share: float) -> None:
    """Runs the stages of one member that are not yet done and writes its folder."""
    model = Llama(SHAPES[name], SEEDS[name])
    if name in GROWN:
        origin = WORK / "gable-s.skills.pt"
        while not origin.exists():
            time.sleep(5)
        small = Llama(SHAPES["gable-s"], SEEDS["gable-s"])
        small.load_state_dict(torch.load(origin, weights_only=True))
        model = grow(small, SHAPES[name], SEEDS[name])
    for label, stage in STAGES[name].items():
        kept = WORK / f"{name}.{label}.pt"
        if kept.exists():
            model.load_state_dict(torch.load(kept, weights_only=True))
            continue
        if share != 1.0:
            stage = replace(stage, steps=max(1, int(stage.steps * share)))
        started = time.monotonic()
        loss = train(model, tokenizer, world, stage, f"{name} {label}", WORK / f"{name}.partial.pt")
        torch.save(model.state_dict(), kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)
        with (WORK / "times.tsv").open("a") as log:
            log.write(f"{name}\t{label}\t{time.monotonic() - started:.0f}\t{loss:.4f}\n")
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
        for name in LANES[options.lane]:
            make_member(name, world, tokenizer, options.share)
        return
    command = [sys.executable, str(Path(__file__).resolve()), "--share", str(options.share), "--lane"]
    lanes = [subprocess.Popen([*command, lane]) for lane in LANES]
    failed = [lane.wait() for lane in lanes]
    if any(failed):
        raise SystemExit("a lane failed; run again to resume at the stage that did not finish")
    suites.write(world, ROOT / "suites")


if __name__ == "__main__":
    main()
