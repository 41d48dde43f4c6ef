"""What a bound is, and what every rule here asks of its arguments."""

import math
from collections.abc import Callable, Hashable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

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


def last_that_holds(holds: Callable[[float], bool], inside: float, outside: float) -> float:
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


def same_length(candidate: Sequence[bool], baseline: Sequence[bool]) -> int:
    if len(candidate) != len(baseline):
        raise ValueError(f"{len(candidate)} candidate items, {len(baseline)} baseline items")
    return len(candidate)


def check_confidence(confidence: float) -> None:
    if not 0.5 < confidence < 1:  # below one half a "bound" would lie on the wrong side of the estimate
        raise ValueError(f"confidence {confidence} is not between 0.5 and 1")


def check_counts(k: float, n: float) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n}")


def signed_root_ratio(difference: float, variance: float) -> float:
    if variance > 1e-300:
        return difference / math.sqrt(variance)
    return math.copysign(math.inf, difference) if difference else 0.0
