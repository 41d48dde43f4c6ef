"""Intervals that several rooms use: rates, paired differences, ratios and means, each with clusters.

Every bound is one-sided at `confidence`: `lower` and `upper` may each be used for a claim of their own at
that level, and together they are an interval at 2·confidence − 1. No function here decides anything, and
none treats a missing score: who calls fills it in against the claim first (`dutchdoor.evidence.measures`).

Needs numpy and scipy.special only (scipy.stats costs 0.7 s at import).
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

Floats = NDArray[np.float64]
Clusters = Sequence[Hashable | None]  # null: the item is a cluster of its own

CONFIDENCE = 0.95  # the house's default, one-sided: α = 0.05
BISECTIONS = 60  # halvings of an interval of length ≤ 2: below the spacing of doubles near 1


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """A point estimate (null when nothing was seen) with a one-sided bound on each side."""

    value: float | None
    lower: float
    upper: float
    n: int
    clusters: int | None  # null: no two items share a source
    method: str


def clopper_pearson_upper(k: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The exact upper bound of a rate after k of n: BetaInv(confidence; k + 1, n − k).

    Clopper & Pearson 1934 (Biometrika 26:404); with k = 0 it is 1 − α^(1/n). 1 when n = 0 or k = n.
    """
    _check(confidence)
    _check_counts(k, n)
    return 1.0 if k >= n else float(betaincinv(k + 1, n - k, confidence))


def clopper_pearson_lower(k: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The exact lower bound of a rate after k of n: BetaInv(1 − confidence; k, n − k + 1). 0 when k = 0."""
    _check(confidence)
    _check_counts(k, n)
    return 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, 1 - confidence))


def tango_upper(gained: float, lost: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The score upper bound of p₁ − p₀ for binary pairs, by root finding.

    `gained`: pairs where only the candidate has the event, `lost`: only the baseline, of `n` pairs (counts
    may be fractions when they were scaled). Tango 1998, Statistics in Medicine 17:891: the largest Δ with
    (gained − lost − nΔ) / √(n(2q̃ + Δ(1 − Δ))) ≥ −z, q̃ the likelihood estimate of P(only baseline) under
    Δ. Without discordant pairs it is z²/(n + z²); 1 when n = 0 or every pair is gained.
    """
    _check(confidence)
    if gained < 0 or lost < 0 or gained + lost > n * (1 + 1e-12):
        raise ValueError(f"{gained} and {lost} discordant of {n} pairs")
    if n == 0:
        return 1.0
    z = float(ndtri(confidence))

    def holds(delta: float) -> bool:
        return _tango_score(gained, lost, n, delta) >= -z

    return _last_that_holds(holds, (gained - lost) / n, 1.0)


def tango_lower(gained: float, lost: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The score lower bound of p₁ − p₀ for binary pairs: the mirror of `tango_upper`."""
    return -tango_upper(lost, gained, n, confidence)


def _tango_score(gained: float, lost: float, n: float, delta: float) -> float:
    linear = 2 * n * delta - gained - lost - delta * (gained - lost)
    constant = -lost * delta * (1 - delta)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    # the positive root of 2n·q² + linear·q + constant = 0, written so that nothing cancels
    q = (root - linear) / (4 * n) if linear <= 0 else -2 * constant / (root + linear)
    variance = n * (2 * q + delta * (1 - delta))
    return _ratio_to_infinity(gained - lost - n * delta, variance)


def score_ratio_upper(
    both: float, gained: float, lost: float, n: float, confidence: float = CONFIDENCE
) -> float:
    """The score upper bound of p₁ / p₀ for binary pairs, by root finding; infinite when p₀ is seen to be 0.

    `both`: pairs where both have the event, `gained` only the candidate, `lost` only the baseline, of `n`.
    Nam & Blackwelder 2002 (Statistics in Medicine 21:689), equal to Tang, Tang & Chan 2003 (22:1217): the
    largest θ with √n(p₁ − θp₀) / √(θ(q₁ + q₀)) ≥ −z, q₁, q₀ the likelihood estimates of the discordant
    cells under θ.
    """
    _check(confidence)
    if min(both, gained, lost) < 0 or both + gained + lost > n * (1 + 1e-12):
        raise ValueError(f"{both} concordant, {gained} and {lost} discordant of {n} pairs")
    if both + lost <= 0:
        return math.inf
    z = float(ndtri(confidence))

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
    return math.exp(_last_that_holds(holds, start, end))


def score_ratio_lower(
    both: float, gained: float, lost: float, n: float, confidence: float = CONFIDENCE
) -> float:
    """The score lower bound of p₁ / p₀ for binary pairs: one over the upper bound of p₀ / p₁."""
    return 1 / score_ratio_upper(both, lost, gained, n, confidence)


def _ratio_score(both: float, gained: float, lost: float, n: float, theta: float) -> float:
    p1, p0, only1, only0 = (both + gained) / n, (both + lost) / n, gained / n, lost / n
    root = math.sqrt((p1 - theta**2 * p0) ** 2 + 4 * theta**2 * only1 * only0)
    q1 = (-p1 + theta**2 * (p0 + 2 * only1) + root) / (2 * theta * (theta + 1))
    q0 = theta * q1 - (theta - 1) * (p1 + only0)
    return _ratio_to_infinity(math.sqrt(n) * (p1 - theta * p0), theta * (max(q1, 0.0) + max(q0, 0.0)))


def _ratio_to_infinity(difference: float, variance: float) -> float:
    if variance > 1e-300:
        return difference / math.sqrt(variance)
    return math.copysign(math.inf, difference) if difference else 0.0


def _last_that_holds(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """The far end of an interval that starts at `inside`, rounded outwards: it never claims too much."""
    if holds(outside):
        return outside
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return outside


def rate(events: Sequence[bool], clusters: Clusters | None = None, confidence: float = CONFIDENCE) -> Bounds:
    """Bounds of a rate: Clopper–Pearson, with clusters at the effective size, rounded against each claim.

    n_eff = (Σ n_g)² / Σ n_g² assumes that a cluster's items are all alike (Kish 1965, §8.2: design effect
    at correlation 1). The event count for the upper bound is scaled and rounded up, n_eff is rounded down,
    and the lower bound mirrors it, in integer arithmetic. False pass ≤ 4.8 % at α = 5 % over the grid of
    facts/vetting.md, 3.
    """
    n, k = len(events), sum(events)
    sizes = _cluster_sizes(clusters, n)
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


def paired_difference(
    candidate: Sequence[bool],
    baseline: Sequence[bool],
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
) -> Bounds:
    """Bounds of p₁ − p₀ over the same items: Tango; with clusters, the wider of two on each side.

    The two are cluster-robust t (`cluster_t`) and Tango with all counts scaled by n_eff / n: t alone
    collapses when no cluster is discordant, and Tango alone ignores the clusters. False pass ≤ 6.3 % at α =
    5 % over the grid of facts/vetting.md, 3. Over nothing the bounds are −1 and 1.
    """
    n = _same_length(candidate, baseline)
    gained = sum(1 for a, b in zip(candidate, baseline, strict=True) if a and not b)
    lost = sum(1 for a, b in zip(candidate, baseline, strict=True) if b and not a)
    sizes = _cluster_sizes(clusters, n)
    scale = _scale(sizes, n)
    lower = tango_lower(gained * scale, lost * scale, n * scale, confidence)
    upper = tango_upper(gained * scale, lost * scale, n * scale, confidence)
    method = "tango"
    if sizes is not None and clusters is not None:
        differences = np.asarray(candidate, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
        t_lower, t_upper = cluster_t(differences, clusters, confidence)
        lower, upper = max(-1.0, min(lower, t_lower)), min(1.0, max(upper, t_upper))
        method = "wider of tango and cluster-robust t"
    return Bounds(
        value=(gained - lost) / n if n else None,
        lower=lower,
        upper=upper,
        n=n,
        clusters=None if sizes is None else len(sizes),
        method=method,
    )


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
    n = _same_length(candidate, baseline)
    pairs = Counter((bool(a), bool(b)) for a, b in zip(candidate, baseline, strict=True))
    both, gained, lost = pairs[True, True], pairs[True, False], pairs[False, True]
    sizes = _cluster_sizes(clusters, n)
    scale = _scale(sizes, n)
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


def paired_mean(
    differences: Sequence[float],
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
    span: tuple[float, float] = (-1.0, 1.0),
) -> Bounds:
    """Bounds of the mean of paired differences of graded scores that lie in `span`.

    Student's t, cluster-robust where items share a source (`cluster_t`), and never narrower than what could
    hide unseen: with u = 1 − α^(1/n_eff), the rate at which an unseen kind of item may still occur, a bound
    lies at least at (1 − u)·mean + u·end of the span. So equal differences do not collapse to a point,
    where t alone claims certainty.
    """
    low, high = span
    n = len(differences)
    if any(not low <= d <= high for d in differences):
        raise ValueError(f"a difference lies outside {span}")
    if n == 0:
        return Bounds(value=None, lower=low, upper=high, n=0, clusters=None, method="paired t")
    values = np.asarray(differences, dtype=np.float64)
    sizes = _cluster_sizes(clusters, n)
    mean = float(values.mean())
    lower, upper = cluster_t(
        values, clusters if sizes is not None and clusters is not None else range(n), confidence
    )
    unseen = 1 - (1 - confidence) ** (1 / (n * _scale(sizes, n)))
    return Bounds(
        value=mean,
        lower=max(low, min(lower, (1 - unseen) * mean + unseen * low)),
        upper=min(high, max(upper, (1 - unseen) * mean + unseen * high)),
        n=n,
        clusters=None if sizes is None else len(sizes),
        method="paired t" if sizes is None else "paired cluster-robust t",
    )


def cluster_t(differences: Floats, clusters: Clusters, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Lower and upper bound of a mean by cluster-robust t with G − 1 degrees of freedom; infinite for G < 2.

    SE² = G/(G − 1) · Σ_g (Σ_{i∈g} (d_i − d̄))² / n² (Miller 2024, arXiv 2411.00640, with the small-sample
    factor). Zero when all differences are equal, so never use it alone on binary data.
    """
    _check(confidence)
    totals = _cluster_totals((differences - differences.mean()).reshape(-1, 1), clusters)[:, 0]
    groups = len(totals)
    if groups < 2:
        return -math.inf, math.inf
    error = math.sqrt(groups / (groups - 1) * float(totals @ totals)) / len(differences)
    width = float(stdtrit(groups - 1, confidence)) * error
    mean = float(differences.mean())
    return mean - width, mean + width


def effective_size(sizes: Sequence[int]) -> float:
    """(Σ n_g)² / Σ n_g²: how many independent items clusters of these sizes are worth at full correlation."""
    total = sum(sizes)
    return total * total / sum(size * size for size in sizes) if total else 0.0


def _fieller(
    candidate: Sequence[bool], baseline: Sequence[bool], clusters: Clusters, confidence: float
) -> tuple[float, float]:
    """Fieller's limits of p₁ / p₀ with cluster-robust t (Fieller 1954, JRSS B 16:175).

    All θ ≥ 0 for which (p₁ − θp₀)² ≤ t²(V₁₁ − 2θV₁₀ + θ²V₀₀). Where p₀ is not clear of 0 that set has no
    end: 0 and infinity are returned.
    """
    both = np.column_stack([np.asarray(candidate, np.float64), np.asarray(baseline, np.float64)])
    p1, p0 = (float(p) for p in both.mean(axis=0))
    totals = _cluster_totals(both - both.mean(axis=0), clusters)
    groups = len(totals)
    if groups < 2:
        return 0.0, math.inf
    covariance = groups / (groups - 1) * (totals.T @ totals) / len(both) ** 2
    t2 = float(stdtrit(groups - 1, confidence)) ** 2
    a = p0 * p0 - t2 * float(covariance[1, 1])
    if a <= 0:
        return 0.0, math.inf
    b = p1 * p0 - t2 * float(covariance[0, 1])
    c = p1 * p1 - t2 * float(covariance[0, 0])
    root = math.sqrt(max(b * b - a * c, 0.0))
    return max(0.0, (b - root) / a), max(0.0, (b + root) / a)


def _cluster_totals(columns: Floats, clusters: Clusters) -> Floats:
    """The sum of each column within each cluster, clusters × columns."""
    numbers: dict[Hashable, int] = {}
    index = [
        numbers.setdefault(("alone", i) if cluster is None else ("shared", cluster), len(numbers))
        for i, cluster in enumerate(clusters)
    ]
    totals = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(totals, index, columns)
    return totals


def _cluster_sizes(clusters: Clusters | None, n: int) -> list[int] | None:
    """The sizes of the clusters; null when no two items share one."""
    if clusters is None:
        return None
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster names for {n} items")
    shared = Counter(cluster for cluster in clusters if cluster is not None)
    if all(size == 1 for size in shared.values()):
        return None
    return [*shared.values(), *(1 for cluster in clusters if cluster is None)]


def _scale(sizes: Sequence[int] | None, n: int) -> float:
    return 1.0 if sizes is None else effective_size(sizes) / n


def _same_length(candidate: Sequence[bool], baseline: Sequence[bool]) -> int:
    if len(candidate) != len(baseline):
        raise ValueError(f"{len(candidate)} candidate items, {len(baseline)} baseline items")
    return len(candidate)


def _check(confidence: float) -> None:
    if not 0.5 < confidence < 1:  # below one half a "bound" would lie on the wrong side of the estimate
        raise ValueError(f"confidence {confidence} is not between 0.5 and 1")


def _check_counts(k: float, n: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n}")
