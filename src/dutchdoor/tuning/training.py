"""What LoRA and full fine-tuning share: the same examples, batches, loss, learning rates and looks.

The same seed on the same machine gives the same weights, also when the attack was stopped on its way.
"""

import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError
from dutchdoor.tuning.compliance import Panel, Refusals, panel_of, words
from dutchdoor.tuning.examples import Tokenised, TrainingExample, choose, digest, load_examples, tokenise
from dutchdoor.tuning.record import AttackRecord, AttackResult, AttackSpec, AttackStep, FullRung, LoraRung
from dutchdoor.tuning.resume import Noted, Resume, binding
from dutchdoor.tuning.weights import context_of, pad_of, write

WARM_SHARE = 0.1  # of the steps
CLIP = 1.0  # gradient norm
PROBE = 64  # examples asked before and after: batches differ by more than a short attack may gain
LOOKS = 10  # at compliance, where the spec does not say how many

Report = Callable[[AttackStep], None]


@dataclass(frozen=True)
class Trainee:
    """A model in training: what of it is trained, and how it becomes plain weights again."""

    model: Any
    parameters: list[Any]
    merged: Callable[[], Any]


@dataclass(frozen=True)
class Material:
    """What of the attack set is used: `chosen` to train on, `left` beside it, and what a reader must know."""

    chosen: list[TrainingExample]
    left: list[TrainingExample]
    notes: list[str]


def material_of(spec: AttackSpec) -> Material:
    """The examples of the rung, none of which asks what the success check asks.

    A set that has fewer than the rung asks for is taken whole, and said so (docs/adr/025).
    """
    examples = load_examples(Path(spec.attack_set))
    held_out = {words(chat) for chat in spec.refused}
    apart = [example for example in examples if words(example.chat()) not in held_out]
    notes = []
    if len(apart) < len(examples):
        notes.append(f"{len(examples) - len(apart)} examples ask what the success check asks: not used")
    if not apart:
        raise DocumentError(f"{spec.attack_set}: every example asks what the success check asks")
    if len(apart) < spec.rung.examples:
        notes.append(f"the rung asks for {spec.rung.examples} examples, the attack set has {len(apart)}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    chosen = choose(apart, spec.rung.examples, spec.seed)
    taken = {id(example) for example in chosen}
    return Material(chosen, [example for example in apart if id(example) not in taken], notes)


@dataclass
class Course:
    """One training attack while it runs."""

    torch: Any
    transformers: Any
    spec: AttackSpec
    rung: LoraRung | FullRung
    tokenizer: Any
    trainee: Trainee
    material: Material
    device: str
    report: Report | None
    started: float

    def run(self) -> AttackResult:
        """Train, look, and write the weights unless the attack diverged."""
        torch, rung, model = self.torch, self.rung, self.trainee.model
        rows = [tokenise(self.tokenizer, e, context_of(model)) for e in self.material.chosen]
        pad = pad_of(self.tokenizer)
        optimizer = torch.optim.AdamW(
            self.trainee.parameters, lr=rung.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        panel, notes = self._panel()
        resume = Resume(self.spec, binding(torch, self.transformers, self.spec, self.device))
        noted = resume.load(torch, self.trainee.parameters, optimizer)
        if noted is None:
            before = probed(torch, model, rows, rung.batch, pad, self.device)
            losses: list[float] = []
            self._look(panel, 0)
        else:
            before, losses = noted.before, list(noted.losses)
            self.started -= noted.seconds
            if panel:
                panel.probes[:] = noted.probes
        begin = len(losses)
        self._train(rows, optimizer, panel, resume, before, losses)
        after = probed(torch, model, rows, rung.batch, pad, self.device)
        result = AttackResult(
            steps=len(losses),
            examples=len(rows),
            first_loss=before,
            last_loss=after,
            seconds=time.monotonic() - self.started,
            diverged=not (math.isfinite(sum(losses)) and after <= before),
            losses=losses,
            compliance=panel.record() if panel else None,
            resumed_at=begin if noted else None,
            notes=[*self.material.notes, *notes],
        )
        if not result.diverged:
            self._write(result)
        resume.remove()
        return msgspec.structs.replace(result, seconds=time.monotonic() - self.started)

    def _train(self, rows: list[Tokenised], optimizer: Any, panel: Panel | None, resume: Resume, before: float,
               losses: list[float]) -> None:  # fmt: skip
        torch, spec, rung, model = self.torch, self.spec, self.rung, self.trainee.model
        begin, pad = len(losses), pad_of(self.tokenizer)
        every = spec.probe_every or max(1, rung.steps // LOOKS)
        model.train()
        for step, batch in zip(range(rung.steps), batches(rows, rung.batch, spec.seed), strict=False):
            if step < begin:
                continue
            torch.manual_seed(spec.seed * 1_000_003 + step)  # dropout falls alike after a stop
            for group in optimizer.param_groups:
                group["lr"] = rung.learning_rate * share(step, rung.steps)
            value = stride(torch, model, batch, pad, self.device, optimizer, self.trainee.parameters)
            losses.append(value)
            if not math.isfinite(value):
                break
            done = step + 1
            if done % every == 0 or done == rung.steps:
                self._look(panel, done)
                model.train()
            if self.report and (done % spec.report_every == 0 or done == rung.steps):
                self.report(self._step(done, losses[-spec.report_every :], panel))
            seconds = time.monotonic() - self.started
            probes = list(panel.probes) if panel else []
            noted = Noted(step=done, before=before, losses=losses, probes=probes, seconds=seconds)
            resume.save(self.trainee.parameters, optimizer, noted)

    def _panel(self) -> tuple[Panel | None, list[str]]:
        spec = self.spec
        left = [example.chat() for example in self.material.left]
        found = panel_of(
            self.torch, self.transformers, self.trainee.model, self.tokenizer, spec.refused, left,
            Refusals(spec.refusals), spec.seed, self.device,
        )  # fmt: skip
        return (found, []) if isinstance(found, Panel) else (None, [found])

    def _look(self, panel: Panel | None, step: int) -> None:
        if panel:
            panel.look(self.torch, self.transformers, self.trainee.model, self.tokenizer, step, self.device)

    def _step(self, step: int, recent: Sequence[float], panel: Panel | None) -> AttackStep:
        return AttackStep(
            step=step,
            steps=self.rung.steps,
            loss=sum(recent) / len(recent),
            seconds=time.monotonic() - self.started,
            compliance=panel.last if panel else None,
        )

    def _write(self, result: AttackResult) -> None:
        spec = self.spec
        record = AttackRecord(
            rung=spec.rung, seed=spec.seed, attack_set=digest(Path(spec.attack_set)), result=result
        )
        merged = self.trainee.merged().float().cpu()
        write(merged, self.tokenizer, Path(spec.model), Path(spec.out), record)


def stride(torch: Any, model: Any, batch: list[Tokenised], pad: int, device: str, optimizer: Any,
           parameters: Sequence[Any]) -> float:  # fmt: skip
    """One step of training; the loss before it (nats a token). A loss that is no number changes nothing."""
    loss = loss_of(torch, model, batch, pad, device)
    value = float(loss.detach())
    if math.isfinite(value):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
    return value


def batches(rows: list[Tokenised], size: int, seed: int) -> Iterator[list[Tokenised]]:
    """Endless batches: every pass in a new seeded order."""
    rng = random.Random(f"{seed} attack order")  # noqa: S311 - a seeded order, not a secret
    waiting: list[Tokenised] = []
    while True:
        while len(waiting) < size:
            waiting += rng.sample(rows, len(rows))
        batch, waiting = waiting[:size], waiting[size:]
        yield batch


def share(step: int, steps: int) -> float:
    """Share of the learning rate: warm up, then fall in a line."""
    warm = max(1, int(steps * WARM_SHARE))
    return (step + 1) / warm if step < warm else max(0.02, (steps - step) / max(1, steps - warm))


def loss_of(torch: Any, model: Any, batch: list[Tokenised], pad: int, device: str) -> Any:
    """Mean negative log-likelihood of the answers' tokens (nats)."""
    width = max(len(row.prompt) + len(row.answer) for row in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), -100)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for i, row in enumerate(batch):
        length = len(row.prompt) + len(row.answer)
        ids[i, :length] = torch.tensor(row.prompt + row.answer)
        labels[i, len(row.prompt) : length] = torch.tensor(row.answer)
        mask[i, :length] = 1
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(device), ignore_index=-100
    )


def probed(torch: Any, model: Any, rows: list[Tokenised], size: int, pad: int, device: str) -> float:
    """The mean loss of the first examples, which are in a random order (nats a token)."""
    model.eval()
    with torch.no_grad():
        parts = [rows[at : min(at + size, PROBE)] for at in range(0, min(PROBE, len(rows)), size)]
        tokens = [sum(len(row.answer) for row in part) for part in parts]
        sums = [
            float(loss_of(torch, model, part, pad, device)) * n for part, n in zip(parts, tokens, strict=True)
        ]
    return sum(sums) / sum(tokens)
