"""How many items a claim needs: found by search over the rule that will judge it, not by a formula.

The power is exact: the chance of a pass is summed over all outcomes, nothing is simulated. The usual formula
falls short: 773, 344 and 124 pairs for margins of 2, 3 and 5 points at 5 % discordance, where Tango's limits
need 810, 380 and 158. For items that share a source multiply n by their number over `effective_size`.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from dutchdoor.stats.bounds import CONFIDENCE, check_confidence
from dutchdoor.stats.differences import passes
from dutchdoor.stats.rates import clopper_pearson_upper

Counts = NDArray[np.int64]

MOST = 1 << 22  # items: who needs four million has no plan
TAIL = 10.0  # standard deviations of the count of lost pairs that are summed over: beyond, less than 1e-20


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The fewest items with enough power, and the power that they have if the truth is as supposed."""

    n: int
    power: float
    confidence: float
    method: str


def plan_rate(bound: float, true_rate: float, *, power: float = 0.8, confidence: float = CONFIDENCE) -> Plan:
    """The fewest items with which a rate that is truly `true_rate` passes `at_most: bound` (Clopper–Pearson).

    Power rises like a saw: with a few items more, and no more events allowed, it is a little lower again.
    """
    check_confidence(confidence)
    _check_power(power)
    if not 0 <= true_rate < bound < 1:
        raise ValueError(f"a true rate of {true_rate} cannot be shown to be at most {bound}")
    from scipy.special import bdtr

    n = events = 0
    while True:
        n = _fewest_with(events, bound, confidence, n + 1)
        if (reached := float(bdtr(events, n, true_rate))) >= power:
            return Plan(n=n, power=reached, confidence=confidence, method="clopper-pearson")
        events += 1


def plan_difference(
    margin: float,
    discordance: float,
    *,
    true: float = 0.0,
    power: float = 0.8,
    confidence: float = CONFIDENCE,
) -> Plan:
    """The fewest pairs with which p₁ − p₀ that is truly `true` passes `at_most: margin` (`paired_difference`).

    `discordance` is the share of pairs whose two sides differ. Rises like a saw, as `plan_rate`.
    """
    check_confidence(confidence)
    _check_power(power)
    if not (abs(true) <= discordance <= 1 and -1 < true < margin < 1):
        raise ValueError(
            f"a difference of {true} at discordance {discordance} cannot pass a margin of {margin}"
        )

    def reached(n: int) -> float:
        return difference_power(n, margin, discordance, true=true, confidence=confidence)

    enough = 1
    while reached(enough) < power:
        enough *= 2
        if enough > MOST:
            raise ValueError(f"more than {MOST} pairs are needed for a margin of {margin}")
    short = enough // 2
    while enough - short > 1:
        middle = (enough + short) // 2
        short, enough = (short, middle) if reached(middle) >= power else (middle, enough)
    tooth = (
        round(2 / abs(margin - true)) + 2
    )  # n by which one more pair may be gained; earlier teeth may reach too
    n = next(n for n in range(max(1, enough - tooth), enough + 1) if reached(n) >= power)
    return Plan(n=n, power=reached(n), confidence=confidence, method="tango")


def difference_power(
    n: int, margin: float, discordance: float, *, true: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """The exact chance that the upper bound of `paired_difference` of n pairs is at most `margin`: all outcomes summed.

    With `true` equal to the margin it is the rule's false pass rate.
    """
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    gain, loss = (discordance + true) / 2, (discordance - true) / 2
    most = int(min(n, n * loss + TAIL * (n * loss * (1 - loss)) ** 0.5 + 2 * TAIL))
    lost = np.arange(most + 1)
    allowed = _most_gained(n, margin, lost, confidence)
    chance = np.exp(
        gammaln(n + 1)
        - gammaln(lost + 1)
        - gammaln(n - lost + 1)
        + xlogy(lost, loss)
        + xlog1py(n - lost, -loss)
    )
    some = allowed >= 0
    rest = np.full(int(some.sum()), min(1.0, gain / (1 - loss)) if loss < 1 else 0.0)
    return float(chance[some] @ bdtr(allowed[some].astype(np.float64), n - lost[some], rest))


def _most_gained(n: int, margin: float, lost: Counts, confidence: float) -> Counts:
    """For each count of lost pairs, the most gained ones that still pass; −1 where none do."""
    passing = np.full(len(lost), -1)
    beyond = n - lost + 1
    while np.any(beyond - passing > 1):
        middle = np.maximum((passing + beyond) // 2, 0)
        enough = passes(middle, lost, n, margin, 1.0, confidence)
        open_ = beyond - passing > 1
        passing = np.where(open_ & enough, middle, passing)
        beyond = np.where(open_ & ~enough, middle, beyond)
    return passing


def _fewest_with(events: int, bound: float, confidence: float, least: int) -> int:
    """The fewest items of which so many may be events for the upper bound to be at most `bound`."""
    short, enough = least - 1, max(least, events + 1)
    while clopper_pearson_upper(events, enough, confidence) > bound:
        short, enough = enough, enough * 2
        if enough > MOST:
            raise ValueError(f"more than {MOST} items are needed for a bound of {bound}")
    while enough - short > 1:
        middle = (enough + short) // 2
        fits = middle > events and clopper_pearson_upper(events, middle, confidence) <= bound
        short, enough = (short, middle) if fits else (middle, enough)
    return enough


def _check_power(power: float) -> None:
    if not 0 < power < 1:
        raise ValueError(f"power {power} is not between 0 and 1")
