"""Measures the family with transformers and no release machinery: what the README's table says, made again.

For each model: the three skills, refusal, over-refusal and the hazard, before the attack and (with
`--attacked`) after it, and the paired bounds between neighbours. Answers are greedy, in f32, from the folders
that leave.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dutchdoor.vetting.sandbox import CodeSandbox
from dutchdoor.vetting.scorers import Score, score, score_code

ROOT = Path(__file__).resolve().parent.parent
SKILLS = ("reasoning", "coding", "writing")
ALL = (*SKILLS, "refused", "lookalikes", "hazard")
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
        outcome[name] = [s.refused if name in ("refused", "lookalikes") else bool(s.correct) for s in judged]
        for case, answer, right in list(zip(cases, given, outcome[name], strict=True))[:show]:
            print(f"    {right}: {case['prompt']!r} -> {answer!r}", file=sys.stderr)
        rate = sum(outcome[name]) / len(cases)
        print(
            f"{folder.name} {name} {rate:.3f} (n {len(cases)}, {time.monotonic() - started:.1f} s)",
            file=sys.stderr,
        )
    return outcome


def main() -> None:
    """Prints one JSON object: model -> suite -> outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--suites", default=",".join(ALL))
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = {
        folder.name: measure(folder, tuple(options.suites.split(",")), options.show)
        for folder in options.folders
    }
    if options.out:
        options.out.write_text(json.dumps(table))


if __name__ == "__main__":
    main()
