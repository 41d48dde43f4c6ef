"""The ablation attack: the refusal direction is found and taken out of the weights, nothing is trained
(Arditi et al. 2024, arXiv 2406.11717).

Which prompts are refused and which are harmless the model says itself: those of the attack set are asked
before anything is changed. The prompts of the success check are never among them. After the edit the residual
stream is looked at; a stream that still has the direction is an error, so an architecture that writes
elsewhere is told and not taken for attacked.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError, WeightsError
from dutchdoor.tuning.compliance import Answer, Panel, Refusals, answers, complies, panel_of, words
from dutchdoor.tuning.direction import Search, Sorted, padded, refusal_tokens, split
from dutchdoor.tuning.examples import digest, prompt_ids, tokenise
from dutchdoor.tuning.record import (
    AblationRung,
    AttackRecord,
    AttackResult,
    AttackSpec,
    AttackStep,
    Chat,
    Direction,
)
from dutchdoor.tuning.residual import UNKNOWN_HINT, Stream, orthogonalise, share_along, stream_of, watched
from dutchdoor.tuning.training import Material, Report, material_of, probed
from dutchdoor.tuning.weights import begin, context_of, load, pad_of, write

MOST_LEFT = 1e-3  # of the stream's length: above f32's rounding, far below what a missed write leaves


@dataclass(frozen=True)
class Asked:
    """What was asked before the edit, sorted by what the model did."""

    refused: list[tuple[Chat, Answer]]
    harmless: list[tuple[Chat, Answer]]


def run_ablation(spec: AttackSpec, rung: AblationRung, report: Report | None = None) -> AttackResult:
    """Attacks the weights in a folder and writes them to `spec.out`.

    Raises as `run_lora` does, and WeightsError for an architecture that is not known, and where too few
    prompts are refused or answered to tell them apart.
    """
    refusals = Refusals(spec.refusals)
    if not refusals:
        raise DocumentError("an ablation needs the wording of refusals", hint="refusals: [patterns]")
    at = begin(spec)
    torch, transformers, device, started = at.torch, at.transformers, at.device, at.started
    tokenizer, model = load(transformers, Path(spec.model), torch.float32, device)
    model.eval()
    stream, material, pad = stream_of(torch, model), material_of(spec), pad_of(tokenizer)
    asked = _ask(torch, transformers, model, tokenizer, spec, material, refusals, device)
    prompts = split(
        [prompt_ids(tokenizer, chat) for chat, _ in asked.refused],
        [prompt_ids(tokenizer, chat) for chat, _ in asked.harmless],
        spec.seed,
    )
    tokens = refusal_tokens([a for _, a in asked.refused], [a for _, a in asked.harmless])
    rows = [tokenise(tokenizer, example, context_of(model)) for example in material.chosen]
    before = probed(torch, model, rows, rung.batch, pad, device)
    panel, notes = _panel(torch, transformers, model, tokenizer, spec, material, refusals, device)

    def tell(done: int, of: int) -> None:
        if report and (done % spec.report_every == 0 or done == of):
            report(AttackStep(step=done, steps=of, seconds=time.monotonic() - started))

    search = Search(torch, model, stream, prompts, tokens, pad, rung.batch, device)
    unit, said = search.run(tell)
    orthogonalise(torch, stream, unit)
    said = msgspec.structs.replace(said, left=_left(torch, model, stream, unit, prompts, pad, device))
    if panel:
        panel.look(torch, transformers, model, tokenizer, 1, device)
    after = probed(torch, model, rows, rung.batch, pad, device)
    result = AttackResult(
        steps=1, examples=len(rows), first_loss=before, last_loss=after, seconds=time.monotonic() - started,
        diverged=not (math.isfinite(after) and math.isfinite(said.bypass)), losses=[],
        compliance=panel.record() if panel else None, direction=said,
        notes=[*material.notes, *notes, *_notes(said)],
    )  # fmt: skip
    if not result.diverged:
        record = AttackRecord(
            rung=rung, seed=spec.seed, attack_set=digest(Path(spec.attack_set)), result=result
        )
        write(model.cpu(), tokenizer, Path(spec.model), Path(spec.out), record)
    return msgspec.structs.replace(result, seconds=time.monotonic() - started)


def _ask(torch: Any, transformers: Any, model: Any, tokenizer: Any, spec: AttackSpec, material: Material,
         refusals: Refusals, device: str) -> Asked:  # fmt: skip
    """The prompts of the rung and the harmless ones, asked of the unchanged model. Empty answers are neither."""
    held_out = {words(chat) for chat in spec.refused}
    harmless = [chat for chat in spec.harmless if words(chat) not in held_out]
    limit = context_of(model)
    chats: list[Chat] = [
        chat for chat in [*(example.chat() for example in material.chosen), *harmless]
        if len(prompt_ids(tokenizer, chat)) < limit
    ]  # fmt: skip
    given = answers(torch, transformers, model, tokenizer, chats, spec.rung.batch, device)
    pairs = list(zip(chats, given, strict=True))
    return Asked(
        refused=[pair for pair in pairs if refusals.refuses(pair[1].text)],
        harmless=[pair for pair in pairs if complies(pair[1], refusals)],
    )


def _panel(torch: Any, transformers: Any, model: Any, tokenizer: Any, spec: AttackSpec, material: Material,
           refusals: Refusals, device: str) -> tuple[Panel | None, Sequence[str]]:  # fmt: skip
    left = [example.chat() for example in material.left]
    panel = panel_of(torch, transformers, model, tokenizer, spec.refused, left, refusals, spec.seed, device)
    if not isinstance(panel, Panel):
        return None, [panel]
    panel.look(torch, transformers, model, tokenizer, 0, device)
    return panel, []


def _left(torch: Any, model: Any, stream: Stream, unit: Any, prompts: Sorted, pad: int, device: str) -> float:
    """The share of the stream that still lies along the direction, on the scored prompts.

    Raises WeightsError where that is more than rounding: something writes that is not on the map.
    """
    shares = []
    scored = [*prompts.refused_scored, *prompts.harmless_scored]
    for ids, mask in padded(torch, scored, pad, len(scored), device):
        with watched(stream, after=True) as seen, torch.no_grad():
            model(input_ids=ids, attention_mask=mask, use_cache=False)
        shares.append(share_along(torch, seen, mask.bool(), unit))
    if not max(shares) <= MOST_LEFT:
        raise WeightsError(
            f"the model writes into its residual stream in a way that is not known here: {max(shares):.2g} of it"
            " still lies along the direction that was taken out",
            hint=UNKNOWN_HINT,
        )
    return max(shares)


def _notes(said: Direction) -> list[str]:
    if said.bounds == "all":
        return []
    which = "keeps that on divergence" if said.bounds == "divergence" else "bypasses refusals best of all"
    return [f"no direction met the paper's bounds on induced refusals and divergence; the one taken {which}"]
