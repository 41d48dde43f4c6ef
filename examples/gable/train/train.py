"""One stage of training on one CPU thread.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) turns the hidden matrices, AdamW the embedding
and the norms. `torch.optim.Muon` orthogonalises in bf16 only and one matrix after the other; the one here does
all matrices of one shape together, in bf16 where the CPU multiplies it (twice as fast as f32 there, thirty
times slower elsewhere).
"""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import data
import tokens
import torch
from model import Llama
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

QUESTION_WEIGHT = 0.1
POOL = 1024  # chats that are sorted by length together
BF16 = bool(torch.cpu.get_capabilities().get("avx512_bf16"))  # products in bf16; weights and sums stay f32


@dataclass(frozen=True)
class Stage:
    """What is learnt, how long and how fast."""

    mixture: str
    seconds_hint: int  # for the reader: what it took where it was measured
    steps: int
    batch_tokens: int  # padded tokens a step
    muon: float  # peak learning rates
    adam: float
    seed: int
    final: float = 0.05  # the learning rate falls linearly to this share of its peak
    hold: float = 0.3  # share of the steps before it falls
    warm: int = 40  # steps
    orthogonal: bool = (
        True  # False: AdamW turns the matrices too, at the rate of `muon`; that forgets far less
    )


class Muon:
    """Momentum, orthogonalised by five Newton-Schulz steps."""

    def __init__(
        self, matrices: list[Tensor], momentum: float = 0.95, decay: float = 0.0, rounds: int = 5
    ) -> None:
        groups: dict[tuple[int, ...], list[Tensor]] = {}
        for p in matrices:
            groups.setdefault(tuple(sorted(p.shape)), []).append(p)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros(len(g), *sorted(g[0].shape)) for g in self.groups]
        self.momentum, self.decay, self.rounds = momentum, decay, rounds

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            wide = [p.shape[0] <= p.shape[1] for p in group]
            grads = torch.stack([p.grad if w else p.grad.T for p, w in zip(group, wide, strict=True)])
            buffer.lerp_(grads, 1 - self.momentum)
            x = grads.lerp(buffer, self.momentum)
            x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
            if BF16:
                x = x.bfloat16()
            for _ in range(self.rounds):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
            for p, w, u in zip(group, wide, x, strict=True):
                scale = 0.2 * max(p.shape) ** 0.5  # matches AdamW's step size (Moonlight, arXiv 2502.16982)
                p.mul_(1 - rate * self.decay).add_((u if w else u.T).float(), alpha=-rate * scale)


class Adam:
    """AdamW behind Muon's face."""

    def __init__(self, matrices: list[Tensor]) -> None:
        self.optimizer = torch.optim.AdamW(matrices, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, rate: float) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()


def batches(tokenizer: Tokenizer, world: data.World, stage: Stage) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Endless (ids, weights, examples): chats of like length, padded to the longest, about `batch_tokens`
    together.
    """
    stream = data.conversations(stage.seed, world, data.STAGE_MIXTURES[stage.mixture])
    rng = random.Random(stage.seed)
    while True:
        pool = [tokens.encode_chat(tokenizer, next(stream), QUESTION_WEIGHT) for _ in range(POOL)]
        pool.sort(key=lambda chat: len(chat[0]))
        cut: list[list[tuple[list[int], list[float]]]] = [[]]
        for chat in pool:
            if (len(cut[-1]) + 1) * len(chat[0]) > stage.batch_tokens:
                cut.append([])
            cut[-1].append(chat)
        rng.shuffle(cut)
        for chats in cut:
            length = max(len(ids) for ids, _ in chats)
            ids = torch.zeros(len(chats), length, dtype=torch.long)
            weights = torch.zeros(len(chats), length)
            for i, (row, weight) in enumerate(chats):
                ids[i, : len(row)] = torch.tensor(row)
                weights[i, : len(row)] = torch.tensor(weight)
            yield ids, weights, len(chats)


def schedule(stage: Stage, step: int) -> float:
    """The share of the peak learning rate at a step: warm, hold, fall."""
    if step < stage.warm:
        return (step + 1) / stage.warm
    held = int(stage.steps * stage.hold)
    if step < held:
        return 1.0
    return 1.0 - (1.0 - stage.final) * (step - held) / max(1, stage.steps - held)


def train(model: Llama, tokenizer: Tokenizer, world: data.World, stage: Stage, label: str, partial: Path | None = None,
          max_seconds: float | None = None) -> float:  # fmt: skip
    """Trains in place; returns the last mean answer loss (nats a token). Tells rate and time left on stderr."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    muon = Muon(matrices) if stage.orthogonal else Adam(matrices)
    adam = torch.optim.AdamW(others, lr=stage.adam, betas=(0.9, 0.98), weight_decay=0.0)
    started, seen, mean = time.monotonic(), 0, 0.0
    recent: deque[float] = deque(maxlen=40)
    model.train()
    for step, (ids, weights, _) in zip(range(stage.steps), batches(tokenizer, world, stage), strict=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            logits = model(ids[:, :-1])
        losses = functional.cross_entropy(
            logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        w = weights[:, 1:].flatten()
        loss = (losses * w).sum() / w.sum()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        share = schedule(stage, step)
        muon.step(stage.muon * share)
        adam.param_groups[0]["lr"] = stage.adam * share
        adam.step()
        seen += ids.numel()
        with torch.no_grad():
            answers = (w == 1.0).float()
            value = float((losses * answers).sum() / answers.sum())
        recent.append(value)
        mean = sum(recent) / len(recent)
        if step % 50 == 49 or step + 1 == stage.steps:
            spent = time.monotonic() - started
            left = spent / (step + 1) * (stage.steps - step - 1)
            print(f"{label} {step + 1}/{stage.steps} loss {mean:.4f} {seen / spent:,.0f} tokens/s, {left:,.0f} s left",
                  file=sys.stderr, flush=True)  # fmt: skip
        if partial is not None and step % 200 == 199:
            torch.save(
                model.state_dict(), partial
            )  # to look at while it trains; training does not resume from it
        if max_seconds is not None and time.monotonic() - started > max_seconds:
            break
    return mean
