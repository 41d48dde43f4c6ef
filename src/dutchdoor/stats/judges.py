"""A judge errs, and differently about each model: rates and differences corrected for it, with its own error.

The corrected rate is p = (q + Sp − 1)/(Se + Sp − 1) (Rogan & Gladen 1978, Am. J. Epidemiology 107:71), with q
the judged rate and Se, Sp estimated from gold labels of the same model. Each of the counts has limits of its
own; together they span an ellipsoid around the estimates, and a bound is the corrected value at its worst
point on the half that lies against the claim. Where the value is linear in the parts that is MOVER (Zou &
Donner 2008, Statistics in Medicine 27:1693); where it is not (a poor judge) it is wider.

Gold labels may be of the items judged or of others of the same kind. They are taken as independent of
one another: labels that share a source promise more than they hold.
"""

import math
from collections.abc import Callable, Sequence

import msgspec

from dutchdoor.stats.bounds import CONFIDENCE, Bounds, Clusters
from dutchdoor.stats.differences import paired_difference
from dutchdoor.stats.rates import clopper_pearson_lower, clopper_pearson_upper, rate

TURNS = 30  # of the direction in which the worst point is looked for; it settles after fewer than ten


class Gold:
    """What a judge said and what is true, for the same items of one model."""

    def __init__(self, judged: Sequence[bool], gold: Sequence[bool]) -> None:
        if len(judged) != len(gold):
            raise ValueError(f"{len(judged)} judged items, {len(gold)} gold labels")
        self.events = sum(1 for truth in gold if truth)
        self.others = len(gold) - self.events
        self.found = sum(1 for said, truth in zip(judged, gold, strict=True) if truth and said)
        self.cleared = sum(1 for said, truth in zip(judged, gold, strict=True) if not truth and not said)

    @property
    def sensitivity(self) -> float | None:
        """The share of true events that the judge calls events; null without any."""
        return self.found / self.events if self.events else None

    @property
    def specificity(self) -> float | None:
        """The share of the others that the judge calls none; null without any."""
        return self.cleared / self.others if self.others else None


class _Part(msgspec.Struct, frozen=True):
    """One thing that a corrected value is made of: its estimate and its limits, one-sided each."""

    value: float
    lower: float
    upper: float


def judged_rate(
    events: Sequence[bool], gold: Gold, clusters: Clusters | None = None, confidence: float = CONFIDENCE
) -> Bounds:
    """Bounds of the true rate behind what a judge called events; 0 and 1 where the labels say too little.

    Too little: no true event or none of the others among the labels, or a judge that may be no better than
    chance (Se + Sp ≤ 1 somewhere within the limits). False pass: docs/benchmarks/statistics.md.
    """
    raw = rate(events, clusters, confidence)
    silent = Bounds(
        value=None,
        lower=0.0,
        upper=1.0,
        n=raw.n,
        clusters=raw.clusters,
        method=f"rogan-gladen over {raw.method}",
    )
    if raw.value is None or not _tells(gold, confidence):
        return silent
    parts = [_Part(raw.value, raw.lower, raw.upper), *_errors(gold, confidence)]

    def corrected(q: float, found: float, cleared: float) -> float:
        return (q + cleared - 1) / (found + cleared - 1)

    return _worst(silent, parts, corrected)


def judged_difference(
    candidate: Sequence[bool],
    baseline: Sequence[bool],
    candidate_gold: Gold,
    baseline_gold: Gold,
    clusters: Clusters | None = None,
    confidence: float = CONFIDENCE,
) -> Bounds:
    """Bounds of the true p₁ − p₀ behind judged pairs, each side corrected by its own labels; else −1 and 1.

    With J = Se + Sp − 1 of each side and D = q₁ − q₀ (bounded over pairs: `paired_difference`), the difference
    is D/J₁ + q₀(1/J₁ − 1/J₀) + (Sp₁ − 1)/J₁ − (Sp₀ − 1)/J₀, or the same around q₁ where J₀ is the smaller: then D
    and the single rate push against each other, and to take them as independent errs on the safe side.
    """
    raw = paired_difference(candidate, baseline, clusters, confidence)
    silent = Bounds(
        value=None,
        lower=-1.0,
        upper=1.0,
        n=raw.n,
        clusters=raw.clusters,
        method=f"rogan-gladen over {raw.method}",
    )
    if raw.value is None or not (_tells(candidate_gold, confidence) and _tells(baseline_gold, confidence)):
        return silent
    around_baseline = _margin(candidate_gold) <= _margin(baseline_gold)
    single = rate(baseline if around_baseline else candidate, clusters, confidence)
    if single.value is None:
        return silent
    parts = [
        _Part(raw.value, raw.lower, raw.upper),
        _Part(single.value, single.lower, single.upper),
        *_errors(candidate_gold, confidence),
        *_errors(baseline_gold, confidence),
    ]

    def corrected(
        d: float, q: float, found1: float, cleared1: float, found0: float, cleared0: float
    ) -> float:
        q1, q0 = (q + d, q) if around_baseline else (q, q - d)
        return (q1 + cleared1 - 1) / (found1 + cleared1 - 1) - (q0 + cleared0 - 1) / (found0 + cleared0 - 1)

    return _worst(silent, parts, corrected)


def _errors(gold: Gold, confidence: float) -> tuple[_Part, _Part]:
    """Sensitivity and specificity with their exact limits; 0 to 1 where there is no label of a kind."""
    return _exact(gold.found, gold.events, confidence), _exact(gold.cleared, gold.others, confidence)


def _exact(k: int, n: int, confidence: float) -> _Part:
    return _Part(
        k / n if n else 0.5, clopper_pearson_lower(k, n, confidence), clopper_pearson_upper(k, n, confidence)
    )


def _margin(gold: Gold) -> float:
    """J = Se + Sp − 1 (Youden 1950): 0 is chance, 1 is a judge without error."""
    return (gold.sensitivity or 0.0) + (gold.specificity or 0.0) - 1


def _tells(gold: Gold, confidence: float) -> bool:
    """Whether the judge is better than chance everywhere within its limits, so that dividing by J is safe."""
    if not (gold.events and gold.others):
        return False
    found, cleared = _errors(gold, confidence)
    return _margin(gold) > math.hypot(found.value - found.lower, cleared.value - cleared.lower)


def _worst(silent: Bounds, parts: Sequence[_Part], corrected: Callable[..., float]) -> Bounds:
    """The corrected value, and its least and greatest value over the ellipsoid that the parts' limits span."""
    value = corrected(*(part.value for part in parts))
    lower = -_greatest(parts, lambda *at: -corrected(*at))
    upper = _greatest(parts, corrected)
    low, high = silent.lower, silent.upper

    def within(x: float) -> float:
        return min(high, max(low, x))

    return msgspec.structs.replace(silent, value=within(value), lower=within(lower), upper=within(upper))


def _greatest(parts: Sequence[_Part], corrected: Callable[..., float]) -> float:
    """The maximum over the ellipsoid: the direction is turned towards the gradient until it stays."""
    direction = [0.0] * len(parts)
    greatest = corrected(*(part.value for part in parts))
    for _ in range(TURNS):
        gradient = [_slope(parts, direction, i, corrected) for i in range(len(parts))]
        length = math.hypot(*gradient)
        if length == 0:
            break
        direction = [g / length for g in gradient]
        greatest = max(greatest, corrected(*_at(parts, direction)))
    return greatest


def _slope(parts: Sequence[_Part], direction: list[float], i: int, corrected: Callable[..., float]) -> float:
    """How the value changes along one axis, in units of the axis on the side to which it grows."""
    part = parts[i]
    place = _at(parts, direction)
    step = 1e-6
    up, down = (corrected(*place[:i], place[i] + s, *place[i + 1 :]) for s in (step, -step))
    slope = (up - down) / (2 * step)
    return slope * (part.upper - part.value if slope > 0 else part.value - part.lower)


def _at(parts: Sequence[_Part], direction: list[float]) -> list[float]:
    """The point of the ellipsoid in this direction; its half axes are the distances to the limits."""
    return [
        part.value + u * (part.upper - part.value if u > 0 else part.value - part.lower)
        for part, u in zip(parts, direction, strict=True)
    ]
