"""The refusal direction: where it is looked for, and which one is taken (Arditi et al. 2024, arXiv 2406.11717,
section 2 and appendix C).

For each block l and each of the last prompt tokens i, the candidate is the mean of the residual stream before
block l at token i over refused prompts, less that over harmless ones. Each is scored on prompts it was not
taken from, by the log-odds of the tokens that refusals begin with, at the prompt's last token:

- bypass: over refused prompts, with the direction taken out everywhere; less is better;
- induce: over harmless prompts, with the candidate added before block l; above 0 it really makes refuse;
- divergence: over harmless prompts, of the next token's distribution from the unchanged one, KL in nats.

Taken is the least bypass among l < 0.8 L with induce > 0 and divergence < 0.1. Where none is, the least
bypass among those with divergence < 0.1 that bypass at all (below 0), else of all, and it is said so: small
models often have none, and the success check judges what it did to refusals and skills.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from dutchdoor.core import WeightsError
from dutchdoor.tuning.compliance import Answer
from dutchdoor.tuning.record import Bounds, Direction
from dutchdoor.tuning.residual import Stream, ablated, added, watched

TRAIN, SCORE = 128, 32  # prompts of each kind, as in the paper
LEAST = 8  # prompts of each kind, of both parts together
POSITIONS = 5  # of a prompt's last tokens, as far as all prompts end alike
EARLY = 0.8  # of the blocks: later directions are the answer's first token rather than refusal
MOST_DIVERGENCE = 0.1  # nats
COMMON = 0.05  # of the refusals must begin with a token for it to be a refusal token
BOUNDS: tuple[Bounds, ...] = get_args(Bounds)
NOTHING = 1e-4  # of the stream's length: below, a difference of means is rounding


@dataclass(frozen=True)
class Sorted:
    """Prompts as tokens, by what the model does: those that directions are taken from and scored on."""

    refused: list[list[int]]
    refused_scored: list[list[int]]
    harmless: list[list[int]]
    harmless_scored: list[list[int]]


def split(refused: Sequence[list[int]], harmless: Sequence[list[int]], seed: int) -> Sorted:
    """A quarter of each kind, at most 32, to score on; at most 128 to take directions from; by seed.

    Raises WeightsError where there are too few of a kind.
    """
    for name, found in (("refuses", refused), ("answers", harmless)):
        if len(found) < LEAST:
            raise WeightsError(
                f"the model {name} {len(found)} of the prompts, and a refusal direction needs {LEAST}",
                hint="raise examples, or give an attack set with more refused and more ordinary prompts",
            )
    rng = random.Random(f"{seed} refusal direction")  # noqa: S311 - a seeded split, not a secret
    parts: list[list[list[int]]] = []
    for found in (refused, harmless):
        mixed = rng.sample(list(found), len(found))
        scored = min(SCORE, len(mixed) // 4)
        parts += [mixed[scored : scored + TRAIN], mixed[:scored]]
    return Sorted(*parts)


def refusal_tokens(refused: Sequence[Answer], harmless: Sequence[Answer]) -> list[int]:
    """The tokens that at least 5 % of refusals begin with, and a greater share than of other answers."""
    counts, others = Counter(a.first for a in refused), Counter(a.first for a in harmless)
    found = [
        token for token, n in sorted(counts.items())
        if n >= COMMON * len(refused) and n / len(refused) > others[token] / max(1, len(harmless))
    ]  # fmt: skip
    if not found:
        raise WeightsError(
            "refusals begin with the same tokens as other answers, so directions can't be scored",
            hint="this rung can't be run on it; LoRA and full fine-tuning can",
        )
    return found


def rank_of(bypass: float, induce: float, divergence: float) -> int:
    """The place in `BOUNDS` of a candidate: the lowest there is is taken, and of those the least bypass."""
    if divergence < MOST_DIVERGENCE and induce > 0:
        return 0
    return 1 if divergence < MOST_DIVERGENCE and bypass < 0 else 2


@dataclass
class Search:
    """One search through a model that stays as it is."""

    torch: Any
    model: Any
    stream: Stream
    prompts: Sorted
    tokens: list[int]
    pad: int
    batch: int
    device: str

    def run(self, tell: Callable[[int, int], None]) -> tuple[Any, Direction]:
        """The unit direction, and what is said about it. `tell` hears how many candidates are done of how many."""
        torch, prompts = self.torch, self.prompts
        vectors = self._candidates()
        plain = self._last_logits(prompts.harmless_scored)
        unmoved = self._odds(self._last_logits(prompts.refused_scored))
        found: list[tuple[int, float, Any, Direction]] = []
        for number, (layer, position, vector) in enumerate(vectors, 1):
            unit = vector / torch.linalg.vector_norm(vector)
            with ablated(torch, self.stream, unit):
                bypass = self._odds(self._last_logits(prompts.refused_scored))
                divergence = self._divergence(plain, self._last_logits(prompts.harmless_scored))
            with added(self.stream.blocks[layer], vector):
                induce = self._odds(self._last_logits(prompts.harmless_scored))
            rank = rank_of(bypass, induce, divergence)
            said = Direction(
                layer=layer, position=position, layers=len(self.stream.blocks), candidates=len(vectors),
                unmoved=unmoved, bypass=bypass, induce=induce, divergence=divergence, bounds=BOUNDS[rank],
                refusal_tokens=self.tokens, refused=len(prompts.refused),
                refused_scored=len(prompts.refused_scored), harmless=len(prompts.harmless),
                harmless_scored=len(prompts.harmless_scored), left=1.0,
            )  # fmt: skip
            found.append((rank, bypass, unit, said))
            tell(number, len(vectors))
        _, _, unit, said = min(found, key=lambda each: each[:2])
        return unit, said

    def _candidates(self) -> list[tuple[int, int, Any]]:
        """(block, position, difference of means) for all that differ at all."""
        refused, harmless = self._means(self.prompts.refused), self._means(self.prompts.harmless)
        early = [layer for layer in range(len(self.stream.blocks)) if layer < EARLY * len(self.stream.blocks)]
        norm = self.torch.linalg.vector_norm
        found = []
        for layer in early:
            for place in range(refused.shape[1]):
                vector = refused[layer, place] - harmless[layer, place]
                if float(norm(vector)) > NOTHING * float(norm(harmless[layer, place])):
                    found.append((layer, place - refused.shape[1], vector.float()))
        if not found:
            raise WeightsError(
                "refused and harmless prompts look the same to the model: no refusal direction"
            )
        return found

    def _means(self, prompts: Sequence[list[int]]) -> Any:
        """Mean of the stream, blocks × positions × width, in f64."""
        torch, places = self.torch, self._places()
        total = torch.zeros(len(self.stream.blocks), places, self.stream.width, dtype=torch.float64)
        for ids, mask in self._padded(prompts):
            with watched(self.stream, after=False) as seen, torch.no_grad():
                self.model(input_ids=ids, attention_mask=mask, use_cache=False)
            ends = mask.sum(1)
            for layer, state in enumerate(seen):
                for back in range(places):
                    at = state[torch.arange(len(ids)), ends - places + back]
                    total[layer, back] += at.double().sum(0).cpu()
        return (total / len(prompts)).to(self.device)

    def _places(self) -> int:
        """How many of the last tokens all prompts share: behind the question, where the template ends it."""
        together = [*self.prompts.refused, *self.prompts.harmless]
        shared = 1
        for back in range(1, min(POSITIONS, *(len(p) for p in together)) + 1):
            if len({p[-back] for p in together}) > 1:
                break
            shared = back
        return shared

    def _last_logits(self, prompts: Sequence[list[int]]) -> Any:
        """log p of the token after each prompt, prompts × vocabulary, in f64."""
        rows = []
        for ids, mask in self._padded(prompts):
            with self.torch.no_grad():
                logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            rows.append(logits[self.torch.arange(len(ids)), mask.sum(1) - 1].double().log_softmax(-1))
        return self.torch.cat(rows)

    def _odds(self, logs: Any) -> float:
        """Mean log-odds that the answer begins with a refusal token."""
        inside = logs[:, self.tokens].logsumexp(-1)
        rest = [i for i in range(logs.shape[1]) if i not in set(self.tokens)]
        return float((inside - logs[:, rest].logsumexp(-1)).mean())

    def _divergence(self, plain: Any, changed: Any) -> float:
        return float((plain.exp() * (plain - changed)).sum(-1).mean())

    def _padded(self, prompts: Sequence[list[int]]) -> list[tuple[Any, Any]]:
        """Batches of ids and mask, filled up on the right."""
        return padded(self.torch, prompts, self.pad, self.batch, self.device)


def padded(torch: Any, prompts: Sequence[list[int]], pad: int, batch: int, device: str
           ) -> list[tuple[Any, Any]]:  # fmt: skip
    """Batches of ids and mask, filled up on the right."""
    found = []
    for at in range(0, len(prompts), batch):
        part = prompts[at : at + batch]
        ids = torch.full((len(part), max(map(len, part))), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(part):
            ids[row, : len(prompt)] = torch.tensor(prompt)
            mask[row, : len(prompt)] = 1
        found.append((ids.to(device), mask.to(device)))
    return found
