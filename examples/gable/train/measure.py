"""Measures the family with transformers and no release machinery, and prints the tables of the README.

For each model: the three skills, refusal, over-refusal and the hazard, before and after the attack that
`policy.yaml` states, and the paired bounds between neighbours. Answers are greedy, in f32, from the folders that
leave. `python train/measure.py` measures all; folders given measure those, without the steps between them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dutchdoor import stats
from dutchdoor.policy.rules import load_policy
from dutchdoor.tuning.lora import LoraRung, attack
from dutchdoor.vetting.sandbox import CodeSandbox
from dutchdoor.vetting.scorers import Score, score, score_code

ROOT = Path(__file__).resolve().parent.parent
SKILLS = ("reasoning", "coding", "writing")
ALL = (*SKILLS, "refused", "lookalikes", "hazard")
AFTER = (*SKILLS, "refused", "hazard")  # what is asked once more after the attack
FAMILY = ("baseline", "gable-s", "gable-m", "gable-l")
BATCH = 100


def cases_of(name: str) -> list[dict[str, Any]]:
    """The cases of a suite, without its header."""
    lines = (ROOT / "suites" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


@torch.inference_mode()
def answers(folder: Path, cases: list[dict[str, Any]]) -> list[str]:
    """Greedy answers, in batches of like length."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = [""] * len(cases)
    order = sorted(range(len(cases)), key=lambda i: len(cases[i]["prompt"]))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        chats = [[{"role": "user", "content": cases[i]["prompt"]}] for i in part]
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        out = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False,
            max_new_tokens=max(cases[i]["max_tokens"] for i in part),
        )  # fmt: skip
        for i, row in zip(part, out[:, inputs["input_ids"].shape[1] :], strict=True):
            given[i] = tokenizer.decode(row, skip_special_tokens=True)
    return given


async def scores(cases: list[dict[str, Any]], given: list[str]) -> list[Score]:
    """What the house's scorers say of the answers."""
    async with CodeSandbox() as sandbox:
        return [
            await score_code(sandbox, c["target"], a)
            if c["scorer"] == "code"
            else score(c["scorer"], c.get("target"), c.get("choices"), a)
            for c, a in zip(cases, given, strict=True)
        ]


def measure(folder: Path, suites: tuple[str, ...] = ALL, show: int = 0) -> dict[str, list[bool]]:
    """Per suite the outcome of each case: right for skills and hazard, refused for the other two."""
    outcome: dict[str, list[bool]] = {}
    for name in suites:
        cases = cases_of(name)
        started = time.monotonic()
        given = answers(folder, cases)
        judged = asyncio.run(scores(cases, given))
        refusals = name in ("refused", "lookalikes")
        outcome[name] = [bool(s.refused if refusals else s.correct) for s in judged]
        for case, answer, right in list(zip(cases, given, outcome[name], strict=True))[:show]:
            print(f"    {right}: {case['prompt']!r} -> {answer!r}", file=sys.stderr)
        rate = sum(outcome[name]) / len(cases)
        print(
            f"{folder.name} {name} {rate:.3f} (n {len(cases)}, {time.monotonic() - started:.1f} s)",
            file=sys.stderr,
        )
    return outcome


Outcomes = dict[str, list[bool]]


def attacked(folder: Path, work: Path) -> Outcomes:
    """What comes out after the one rung of the policy's ladder."""
    policy = load_policy(ROOT / "policy.yaml")
    tampered = policy.policy.threats.tampered
    assert tampered is not None
    (rung,) = tampered.ladder
    lora = msgspec.convert({"steps": rung.steps, "examples": rung.examples, **rung.settings}, LoraRung)
    attack(folder, policy.folder / tampered.attack_set, lora, 0, work / folder.name)
    return measure(work / folder.name, AFTER)


def rate(outcomes: Sequence[bool]) -> str:
    """Per cent with the two-sided 95 % interval of Clopper and Pearson."""
    k, n = sum(outcomes), len(outcomes)
    low, high = stats.clopper_pearson_lower(k, n, 0.975), stats.clopper_pearson_upper(k, n, 0.975)
    return f"{100 * k / n:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def change(after: Sequence[bool], before: Sequence[bool]) -> str:
    """Points of paired difference with its one-sided 95 % lower bound (Tango)."""
    bounds = stats.paired_difference(after, before)
    return f"{100 * (bounds.value or 0):+.1f} (≥ {100 * bounds.lower:+.1f})"


def tables(before: dict[str, Outcomes], after: dict[str, Outcomes]) -> str:
    """The three tables of the README."""
    sizes = {name: _parameters(ROOT / name) for name in before}
    heads = [
        "model",
        "parameters",
        *SKILLS,
        "refuses",
        "over-refuses",
        "hazard",
        "hazard, attacked",
        "refuses, attacked",
    ]
    rows = [
        [name, f"{sizes[name] / 1e6:.2f} M", *(rate(before[name][suite]) for suite in ALL),
         rate(after[name]["hazard"]), rate(after[name]["refused"])]
        for name in before
    ]  # fmt: skip
    steps = [
        [f"{small} → {large}", *(change(before[large][skill], before[small][skill]) for skill in SKILLS)]
        for small, large in pairwise(FAMILY)
    ]
    costs = [
        [name, *(change(after[name][skill], before[name][skill]) for skill in SKILLS)] for name in before
    ]
    return "\n".join(
        (_table(heads, rows), "", _table(["step", *SKILLS], steps), "", _table(["model", *SKILLS], costs))
    )


def _parameters(folder: Path) -> int:
    return int(sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters()))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Prints the tables of the whole family, or one JSON object of some folders: model -> suite -> outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--suites", default=",".join(ALL))
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.folders:
        names = (*FAMILY, "control")
        before = {name: measure(ROOT / name) for name in names}
        with tempfile.TemporaryDirectory() as work:
            after = {name: attacked(ROOT / name, Path(work)) for name in names}
        print(tables(before, after))
        return
    table = {
        folder.name: measure(folder, tuple(options.suites.split(",")), options.show)
        for folder in options.folders
    }
    if options.out:
        options.out.write_text(json.dumps(table))


if __name__ == "__main__":
    main()
