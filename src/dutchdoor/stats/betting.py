"""A test that may be looked at after every item: bets against a bound, whose wealth is the evidence.

Against a mean of m or more, each factor 1 + f·(m − x)/(high − m) has expectation at most 1. The wealth is the
average of four bettors who stake fixed fractions f of what may be lost, so it is a nonnegative
supermartingale, and the chance that it *ever* reaches 1/α is at most α (Ville 1939; Waudby-Smith & Ramdas
2024, JRSS B 86:1, arXiv 2010.09686). The mirror bets on a fail.

With clusters one bet is made on each: x and m are summed over its items and divided by the size of the
largest, so that clusters weigh by size. They must come in an order that has nothing to do with their size
or content: see `dutchdoor.stats.sequential`.
"""

import math
from collections import Counter
from typing import Literal

import numpy as np

from dutchdoor.stats.bounds import CONFIDENCE, Floats, check_confidence, last_that_holds

# Fractions of what may be lost, and how the first stake is shared out: the large ones win soon where few
# pairs differ, the small ones survive where many do. Chosen by simulation (docs/adr/023).
FRACTIONS: Floats = np.array([0.9, 0.6, 0.3, 0.15])
SHARES: Floats = np.array([0.35, 0.30, 0.20, 0.15])

SequentialVerdict = Literal["pass", "fail", "inconclusive"]


class Betting:
    """The test of mean ≤ `bound` (pass) against mean > `bound` (fail), fed one item or cluster at a time.

    Values lie in `low` to `high`; `largest` is the size of the largest cluster that will come. Each feed
    costs the same however many came before, and memory grows with the distinct values only. Once there is
    a verdict nothing more is counted.
    """

    def __init__(
        self,
        bound: float,
        *,
        low: float = -1.0,
        high: float = 1.0,
        largest: int = 1,
        confidence: float = CONFIDENCE,
    ) -> None:
        check_confidence(confidence)
        if not low < bound < high:
            raise ValueError(f"a bound of {bound} is not between {low} and {high}")
        if largest < 1:
            raise ValueError(f"a largest cluster of {largest} items")
        self.verdict: SequentialVerdict = "inconclusive"
        self.n = 0
        self._low, self._high, self._largest = low, high, largest
        self._confidence = confidence
        self._passing = _Wealth(bound, high, largest, confidence)
        self._failing = _Wealth(-bound, -low, largest, confidence)

    def add(self, value: float, size: int = 1, *, at_least: float | None = None) -> SequentialVerdict:
        """Look at one item, or at one cluster: its sum and its size. Returns the verdict so far.

        Where scores are missing, `value` has them at their worst for a pass (as high as they may be) and
        `at_least` at their worst for a fail; without it both are the same.
        """
        if self.verdict != "inconclusive":
            return self.verdict
        least = value if at_least is None else at_least
        if not 0 < size <= self._largest:
            raise ValueError(f"a cluster of {size} items where the largest has {self._largest}")
        slack = 1e-9 * size  # sums of graded scores round
        if not self._low * size - slack <= least <= value <= self._high * size + slack:
            raise ValueError(f"a sum of {value} over {size} items outside {self._low} to {self._high}")
        self.n += size
        passes, fails = self._passing.bet(value, size), self._failing.bet(-least, size)
        if passes or fails:
            self.verdict = "pass" if passes else "fail"
        return self.verdict

    @property
    def value(self) -> float | None:
        """The mean of what was looked at, missing scores halfway; null when that is nothing."""
        return (self._passing.total - self._failing.total) / 2 / self.n if self.n else None

    @property
    def upper(self) -> float:
        """The upper bound now, one-sided; it holds at all moments at once. Not above the bound if that passed."""
        return self._passing.limit(self._low)

    @property
    def lower(self) -> float:
        """The lower bound now: the mirror of `upper`."""
        return -self._failing.limit(-self._high)


class _Wealth:
    """What bets that the mean lies below `bound` have come to, and against which means they would have won."""

    def __init__(self, bound: float, high: float, largest: int, confidence: float) -> None:
        self._bound, self._high, self._largest = bound, high, largest
        self._goal = -math.log1p(-confidence)
        self._logs = [math.log(share) for share in SHARES.tolist()]
        self._seen: Counter[tuple[float, int]] = Counter()
        self.total = 0.0

    def bet(self, value: float, size: int) -> bool:
        """Whether the wealth has reached 1/α after this item or cluster."""
        self._seen[value, size] += 1
        self.total += value
        edge = (self._bound * size - value) / ((self._high - self._bound) * self._largest)
        self._logs = [
            log + math.log1p(f * edge) for log, f in zip(self._logs, FRACTIONS.tolist(), strict=True)
        ]
        most = max(self._logs)
        return most + math.log(sum(math.exp(log - most) for log in self._logs)) >= self._goal

    def limit(self, low: float) -> float:
        """The least mean against which the wealth would be 1/α by now; `high` if there is none.

        (m − x)/(high − m) rises with m for every x ≤ high, so the wealth does, and there is one such edge.
        """
        if not self._seen:
            return self._high
        values, sizes = (np.array(column, dtype=np.float64) for column in zip(*self._seen, strict=True))
        times = np.array(list(self._seen.values()), dtype=np.float64)

        def stands(m: float) -> bool:
            edges = (m * sizes - values) / ((self._high - m) * self._largest)
            logs = np.log(SHARES) + np.log1p(np.outer(FRACTIONS, edges)) @ times
            return float(np.logaddexp.reduce(logs)) < self._goal

        last = self._high - 1e-9 * (self._high - low)
        return self._high if stands(last) else last_that_holds(stands, low, last)
