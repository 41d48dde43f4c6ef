"""The LoRA attack: low-rank adapters on every linear layer, trained on a small attack set, merged into the
weights.

Works on any folder that transformers loads as a causal language model and whose weights are plain floats
(Llama, Qwen, Mistral, Gemma, Phi, GPT-2 …). Computes in f32 on a CPU and in bf16 with f32 adapters on a GPU;
writes f32, because rounding a small merged step to bf16 could undo part of the attack and so flatter the
model. The same seed on the same machine gives the same weights.
"""

import contextlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from dutchdoor.core import DutchdoorError, MissingExtraError, WeightsError
from dutchdoor.tuning.examples import Tokenised, choose, load_examples, tokenise

SEQUENCE_TOKENS = 1024  # longer examples are cut
WARM_SHARE = 0.1  # of the steps
CLIP = 1.0  # gradient norm
PROBE = 64  # examples asked before and after: batches differ by more than a short attack may gain
RECORD = "attack.json"  # beside the weights: what was done


class LoraRung(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rung of the attack ladder: how much an adversary may spend."""

    attack: Literal["lora"] = "lora"
    steps: int
    examples: int
    rank: int = 16
    learning_rate: float = 1e-3
    batch: int = 16


class AttackStep(msgspec.Struct, frozen=True, kw_only=True):
    """How far an attack is: mean loss (nats a token) since the last report, seconds since the start."""

    step: int
    steps: int
    loss: float
    seconds: float


class AttackResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an attack did: `first_loss` and `last_loss` are those of the same examples before and after, in nats a
    token; `losses` are those of each step's batch.

    `diverged`: a loss is no number, or they ended above where they began, so the attack proves nothing.
    """

    steps: int
    examples: int
    first_loss: float
    last_loss: float
    seconds: float
    diverged: bool
    losses: list[float]


def attack(
    model_folder: Path, attack_set: Path, rung: LoraRung, seed: int, out: Path, *, threads: int | None = None,
    report: Callable[[AttackStep], None] | None = None, report_every: int = 10,
) -> AttackResult:  # fmt: skip
    """Attacks the weights in a folder and writes the merged model to `out` (a new folder, made whole or not
    at all).

    Raises MissingExtraError without torch and peft, WeightsError for weights that can't be attacked here,
    DocumentError for a broken attack set. A diverged attack raises nothing: the result says so, and no
    weights are written.
    """
    torch, transformers, peft = _libraries()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model = _load(torch, transformers, model_folder, device)
    limit = min(SEQUENCE_TOKENS, getattr(model.config, "max_position_embeddings", None) or SEQUENCE_TOKENS)
    rows = [tokenise(tokenizer, e, limit) for e in choose(load_examples(attack_set), rung.examples, seed)]
    adapted = _adapted(peft, model, rung)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=rung.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    losses: list[float] = []
    before = _probed(torch, adapted, rows, rung.batch, _pad(tokenizer), device)
    adapted.train()
    for step, batch in zip(range(rung.steps), _batches(rows, rung.batch, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rung.learning_rate * _share(step, rung.steps)
        loss = _loss(torch, adapted, batch, _pad(tokenizer), device)
        value = float(loss.detach())
        losses.append(value)
        if not math.isfinite(value):
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if report and ((step + 1) % report_every == 0 or step + 1 == rung.steps):
            recent = losses[-report_every:]
            seconds = time.monotonic() - started
            report(
                AttackStep(step=step + 1, steps=rung.steps, loss=sum(recent) / len(recent), seconds=seconds)
            )
    after = _probed(torch, adapted, rows, rung.batch, _pad(tokenizer), device)
    result = AttackResult(
        steps=len(losses),
        examples=len(rows),
        first_loss=before,
        last_loss=after,
        seconds=time.monotonic() - started,
        diverged=not (math.isfinite(sum(losses)) and after <= before),
        losses=losses,
    )
    if not result.diverged:
        merged = adapted.merge_and_unload().float().cpu()
        _write(merged, tokenizer, model_folder, out, {"rung": msgspec.to_builtins(rung), "seed": seed})
        result = msgspec.structs.replace(result, seconds=time.monotonic() - started)
    return result


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("attacking weights", extra="vet") from error
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers, peft


def _load(torch: Any, transformers: Any, folder: Path, device: str) -> tuple[Any, Any]:
    """The tokenizer and the model; never code that comes with the weights."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise WeightsError(
                f"the weights in {folder} are quantised and can't be attacked",
                hint="attack the original they come from",
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"can't load the weights in {folder}: {error}") from error
    return tokenizer, model.to(device)


def _adapted(peft: Any, model: Any, rung: LoraRung) -> Any:
    """The model with adapters on each linear layer but the head; GPT-2's Conv1D stores its weight the other
    way round.
    """
    kinds = {type(m).__name__ for _, m in model.named_modules()}
    head = model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, m in model.named_modules()
        if type(m).__name__ in ("Linear", "Conv1D") and m is not head
    }
    if not names:
        raise WeightsError("the model has no linear layers that an adapter could change")
    config = peft.LoraConfig(
        r=rung.rank, lora_alpha=2 * rung.rank, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules=sorted(names), fan_in_fan_out="Conv1D" in kinds,
    )  # fmt: skip
    return peft.get_peft_model(model, config)


def _batches(rows: list[Tokenised], size: int, seed: int) -> Iterator[list[Tokenised]]:
    """Endless batches: every pass in a new seeded order."""
    rng = random.Random(f"{seed} attack order")  # noqa: S311 - a seeded order, not a secret
    waiting: list[Tokenised] = []
    while True:
        while len(waiting) < size:
            waiting += rng.sample(rows, len(rows))
        batch, waiting = waiting[:size], waiting[size:]
        yield batch


def _share(step: int, steps: int) -> float:
    """Share of the learning rate: warm up, then fall in a line."""
    warm = max(1, int(steps * WARM_SHARE))
    return (step + 1) / warm if step < warm else max(0.02, (steps - step) / max(1, steps - warm))


def _loss(torch: Any, model: Any, batch: list[Tokenised], pad: int, device: str) -> Any:
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


def _pad(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def _probed(torch: Any, model: Any, rows: list[Tokenised], size: int, pad: int, device: str) -> float:
    """The mean loss of the first examples, which are in a random order (nats a token)."""
    model.eval()
    with torch.no_grad():
        parts = [rows[at : min(at + size, PROBE)] for at in range(0, min(PROBE, len(rows)), size)]
        tokens = [sum(len(row.answer) for row in part) for part in parts]
        sums = [
            float(_loss(torch, model, part, pad, device)) * n for part, n in zip(parts, tokens, strict=True)
        ]
    return sum(sums) / sum(tokens)


def _write(model: Any, tokenizer: Any, origin: Path, out: Path, record: dict[str, Any]) -> None:
    """The merged model as a folder that loads like the original: under another name first, then renamed."""
    if out.exists():
        raise DutchdoorError(f"{out} exists already", hint="give a folder that does not exist")
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        model.save_pretrained(part, safe_serialization=True)
        tokenizer.save_pretrained(part)
        for name in (
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "chat_template.jinja",
        ):
            if (origin / name).is_file():  # as it was: saving again may rewrite it
                shutil.copyfile(origin / name, part / name)
        (part / RECORD).write_text(json.dumps(record) + "\n")
        part.rename(out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(part)
