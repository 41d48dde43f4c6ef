"""Score limits of a ratio of two rates over the same items, also with clusters."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from dutchdoor.stats.bounds import (
    CONFIDENCE,
    Bounds,
    Clusters,
    check_confidence,
    last_that_holds,
    same_length,
    signed_root_ratio,
)
from dutchdoor.stats.clusters import cluster_sizes, cluster_totals, scale_of
from dutchdoor.stats.quantiles import normal_quantile, t_quantile


def score_ratio_upper(
    both: float, gained: float, lost: float, n: float, confidence: float = CONFIDENCE
) -> float:
    """The score upper bound of p₁ / p₀ for binary pairs, by root finding; infinite when p₀ is seen to be 0.

    `both`: pairs where both have the event, `gained` only the candidate, `lost` only the baseline, of `n`.
    Nam & Blackwelder 2002 (Statistics in Medicine 21:689), equal to Tang, Tang & Chan 2003 (22:1217): the
    largest θ with √n(p₁ − θp₀) / √(θ(q₁ + q₀)) ≥ −z, q₁, q₀ the likelihood estimates of the discordant
    cells under θ.
    """
    check_confidence(confidence)
    if min(both, gained, lost) < 0 or both + gained + lost > n * (1 + 1e-12):
        raise ValueError(f"{both} concordant, {gained} and {lost} discordant of {n} pairs")
    if both + lost <= 0:
        return math.inf
    z = normal_quantile(confidence)

    def holds(log_theta: float) -> bool:
        return _ratio_score(both, gained, lost, n, math.exp(log_theta)) >= -z

    if both + gained <= 0:  # θ̂ = 0: start low enough that the score holds
        start = math.log(1e-12)
        if not holds(start):
            return 1e-12
    else:
        start = math.log((both + gained) / (both + lost))
    end = start + 1.0
    while holds(end):
        end += 2.0
        if end > 60.0:  # e^60 is no ratio anybody bounds
            return math.inf
    return math.exp(last_that_holds(holds, start, end))


def score_ratio_lower(
    both: float, gained: float, lost: float, n: float, confidence: float = CONFIDENCE
) -> float:
    """The score lower bound of p₁ / p₀ for binary pairs: one over the upper bound of p₀ / p₁."""
    return 1 / score_ratio_upper(both, lost, gained, n, confidence)


def paired_ratio(
    candidate: Sequence[bool],
    baseline: Sequence[bool],
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
) -> Bounds:
    """Bounds of p₁ / p₀ over the same items: the score limits; with clusters, the wider of two on each side.

    The two are the score limits with all counts scaled by n_eff / n, and Fieller's limits of the linear
    contrast p₁ − θp₀ with cluster-robust variance (`_fieller`). `value` is null and `upper` infinite when
    the baseline has no event: nothing can be said about a ratio to nothing.
    """
    n = same_length(candidate, baseline)
    pairs = Counter((bool(a), bool(b)) for a, b in zip(candidate, baseline, strict=True))
    both, gained, lost = pairs[True, True], pairs[True, False], pairs[False, True]
    sizes = cluster_sizes(clusters, n)
    scale = scale_of(sizes, n)
    counts = (both * scale, gained * scale, lost * scale, n * scale)
    lower, upper = score_ratio_lower(*counts, confidence), score_ratio_upper(*counts, confidence)
    method = "paired score ratio"
    if sizes is not None and clusters is not None:
        f_lower, f_upper = _fieller(candidate, baseline, clusters, confidence)
        lower, upper = min(lower, f_lower), max(upper, f_upper)
        method = "wider of paired score ratio and cluster-robust Fieller"
    return Bounds(
        value=(both + gained) / (both + lost) if both + lost else None,
        lower=lower,
        upper=upper,
        n=n,
        clusters=None if sizes is None else len(sizes),
        method=method,
    )


def _ratio_score(both: float, gained: float, lost: float, n: float, theta: float) -> float:
    p1, p0, only1, only0 = (both + gained) / n, (both + lost) / n, gained / n, lost / n
    root = math.sqrt((p1 - theta**2 * p0) ** 2 + 4 * theta**2 * only1 * only0)
    q1 = (-p1 + theta**2 * (p0 + 2 * only1) + root) / (2 * theta * (theta + 1))
    q0 = theta * q1 - (theta - 1) * (p1 + only0)
    return signed_root_ratio(math.sqrt(n) * (p1 - theta * p0), theta * (max(q1, 0.0) + max(q0, 0.0)))


def _fieller(
    candidate: Sequence[bool], baseline: Sequence[bool], clusters: Clusters, confidence: float
) -> tuple[float, float]:
    """Fieller's limits of p₁ / p₀ with cluster-robust t (Fieller 1954, JRSS B 16:175).

    All θ ≥ 0 for which (p₁ − θp₀)² ≤ t²(V₁₁ − 2θV₁₀ + θ²V₀₀). Where p₀ is not clear of 0 that set has no
    end: 0 and infinity are returned.
    """
    both = np.column_stack([np.asarray(candidate, np.float64), np.asarray(baseline, np.float64)])
    p1, p0 = (float(p) for p in both.mean(axis=0))
    totals = cluster_totals(both - both.mean(axis=0), clusters)
    groups = len(totals)
    if groups < 2:
        return 0.0, math.inf
    covariance = groups / (groups - 1) * (totals.T @ totals) / len(both) ** 2
    t2 = t_quantile(confidence, groups - 1) ** 2
    a = p0 * p0 - t2 * float(covariance[1, 1])
    if a <= 0:
        return 0.0, math.inf
    b = p1 * p0 - t2 * float(covariance[0, 1])
    c = p1 * p1 - t2 * float(covariance[0, 0])
    root = math.sqrt(max(b * b - a * c, 0.0))
    return max(0.0, (b - root) / a), max(0.0, (b + root) / a)
