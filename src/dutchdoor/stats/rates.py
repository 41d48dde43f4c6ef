"""Bounds of a rate: Clopper–Pearson, also with clusters, and Wilson for display."""

import math
from collections.abc import Sequence

from dutchdoor.stats.bounds import CONFIDENCE, Bounds, Clusters, check_confidence, check_counts
from dutchdoor.stats.clusters import cluster_sizes
from dutchdoor.stats.quantiles import beta_quantile, normal_quantile


def clopper_pearson_upper(k: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The exact upper bound of a rate after k of n: BetaInv(confidence; k + 1, n − k).

    Clopper & Pearson 1934 (Biometrika 26:404); with k = 0 it is 1 − α^(1/n). 1 when n = 0 or k = n.
    """
    check_confidence(confidence)
    check_counts(k, n)
    if k >= n:
        return 1.0
    if k == 0:  # without scipy
        return -math.expm1(math.log1p(-confidence) / n)
    return beta_quantile(confidence, k + 1, n - k)


def clopper_pearson_lower(k: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The exact lower bound of a rate after k of n: BetaInv(1 − confidence; k, n − k + 1). 0 when k = 0."""
    check_confidence(confidence)
    check_counts(k, n)
    return 0.0 if k <= 0 else beta_quantile(1 - confidence, k, n - k + 1)


def rate(events: Sequence[bool], clusters: Clusters | None = None, confidence: float = CONFIDENCE) -> Bounds:
    """Bounds of a rate: Clopper–Pearson, with clusters at the effective size, rounded against each claim.

    n_eff = (Σ n_g)² / Σ n_g² assumes that a cluster's items are all alike (Kish 1965, §8.2: design effect
    at correlation 1). The event count for the upper bound is scaled and rounded up, n_eff is rounded down,
    and the lower bound mirrors it, in integer arithmetic. False pass ≤ 4.8 % at α = 5 % over the grid of
    facts/vetting.md, 3.
    """
    n, k = len(events), int(sum(events))
    sizes = cluster_sizes(clusters, n)
    if sizes is None:
        m, k_up, k_low, method = n, k, k, "clopper-pearson"
    else:
        squares = sum(size * size for size in sizes)
        m = n * n // squares
        k_up = min(m, -(-k * n // squares))
        k_low = m - min(m, -(-(n - k) * n // squares))
        method = "clopper-pearson, clustered"
    return Bounds(
        value=k / n if n else None,
        lower=clopper_pearson_lower(k_low, m, confidence),
        upper=clopper_pearson_upper(k_up, m, confidence),
        n=n,
        clusters=None if sizes is None else len(sizes),
        method=method,
    )


def wilson(k: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Lower and upper score bound of a rate after k of n (Wilson 1927, JASA 22:209); 0 and 1 when n = 0.

    For plots and sizes, not for verdicts: near 0 and 1 it is wrong more often than it says (Brown, Cai &
    DasGupta 2001, Statistical Science 16:101), where Clopper–Pearson never is.
    """
    check_confidence(confidence)
    check_counts(k, n)
    if n == 0:
        return 0.0, 1.0
    z = normal_quantile(confidence)
    centre, width = k + z * z / 2, z * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, (centre - width) / (n + z * z)), min(1.0, (centre + width) / (n + z * z))
