"""Verdicts that may be looked at after every item, over scores that are at hand."""

from collections.abc import Hashable, Sequence

import msgspec
import numpy as np

from dutchdoor.stats.betting import Betting, SequentialVerdict
from dutchdoor.stats.bounds import CONFIDENCE, Clusters, Floats, same_length
from dutchdoor.stats.clusters import cluster_sizes


class Sequential(msgspec.Struct, frozen=True, kw_only=True):
    """What a test said that was looked at after every item, and its bounds at that moment.

    `lower` and `upper` are one-sided at the confidence asked for and hold at every moment at once.
    """

    verdict: SequentialVerdict
    stopped_at: int | None  # items looked at when it stopped; null: it never did
    value: float | None  # over the items looked at
    lower: float
    upper: float
    n: int  # items looked at
    clusters: int | None  # looked at; null: no two items share a source
    method: str


def sequential_difference(
    candidate: Sequence[bool],
    baseline: Sequence[bool],
    *,
    bound: float,
    confidence: float = CONFIDENCE,
    clusters: Clusters | None = None,
) -> Sequential:
    """Whether p₁ − p₀ ≤ `bound` over the same items, looked at in the order given (see `Betting`).

    The order must be random, and made before the scores are seen: see `shuffled`.
    """
    same_length(candidate, baseline)
    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return _look(differences, clusters, bound, -1.0, confidence)


def sequential_rate(
    events: Sequence[bool],
    *,
    bound: float,
    confidence: float = CONFIDENCE,
    clusters: Clusters | None = None,
) -> Sequential:
    """Whether a rate is at most `bound`, looked at in the order given: as `sequential_difference`."""
    return _look(np.asarray(events, dtype=np.float64), clusters, bound, 0.0, confidence)


def shuffled(n: int, clusters: Clusters | None = None, seed: int = 0) -> list[int]:
    """An order in which to look at n items: whole clusters, each as likely as any other to come next.

    Shuffling items would bring large clusters early (or, finished, late), so where a cluster's size says
    something about its scores the test would see one kind first and err.
    """
    groups = list(_members(clusters, n).values())
    order = np.random.default_rng(seed).permutation(len(groups))
    return [i for g in order.tolist() for i in groups[g]]


def _look(
    values: Floats, clusters: Clusters | None, bound: float, low: float, confidence: float
) -> Sequential:
    sizes = cluster_sizes(clusters, len(values))
    shared = clusters if sizes is not None else None
    betting = Betting(bound, low=low, largest=max(sizes) if sizes else 1, confidence=confidence)
    looked = 0
    for group in _blocks(shared, len(values)):
        looked += 1
        if betting.add(float(values[group].sum()), len(group)) != "inconclusive":
            break
    return Sequential(
        verdict=betting.verdict,
        stopped_at=None if betting.verdict == "inconclusive" else betting.n,
        value=betting.value,
        lower=betting.lower,
        upper=betting.upper,
        n=betting.n,
        clusters=None if sizes is None else looked,
        method="betting" if sizes is None else "betting on clusters",
    )


def _blocks(clusters: Clusters | None, n: int) -> list[list[int]]:
    """The items of each cluster, in the order given; shuffled by a fixed seed where any cluster is torn apart."""
    groups = list(_members(clusters, n).values())
    if all(group[-1] - group[0] == len(group) - 1 for group in groups):
        return groups
    return [groups[g] for g in np.random.default_rng(0).permutation(len(groups)).tolist()]


def _members(clusters: Clusters | None, n: int) -> dict[Hashable, list[int]]:
    if clusters is None:
        return {i: [i] for i in range(n)}
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster names for {n} items")
    members: dict[Hashable, list[int]] = {}
    for i, cluster in enumerate(clusters):
        members.setdefault(("alone", i) if cluster is None else ("shared", cluster), []).append(i)
    return members
