"""The rules of `dutchdoor.stats`, for many draws at once; `tests/unit/stats/test_simulation.py` holds them together."""

import numpy as np

from dutchdoor.stats import clopper_pearson_upper, differences, effective_size
from dutchdoor.stats.betting import FRACTIONS, SHARES
from dutchdoor.stats.quantiles import t_quantile


def most_events(n, bound, confidence=0.95):
    """The most events of n with which a rate passes `at_most: bound`; −1 if none do."""
    short, beyond = -1, n + 1
    while beyond - short > 1:
        middle = (short + beyond) // 2
        passes = clopper_pearson_upper(middle, n, confidence) <= bound
        short, beyond = (middle, beyond) if passes else (short, middle)
    return short


def rate_passes(events, sizes, bound, confidence=0.95):
    """Whether `rate` over clusters has its upper bound at most `bound`; events: runs × clusters."""
    n, squares = int(np.sum(sizes)), int(np.sum(np.square(sizes)))
    m = n * n // squares
    scaled = np.minimum(m, -(-events.sum(axis=1) * n // squares))
    return scaled <= most_events(m, bound, confidence)


def difference_passes(gained, lost, sizes, bound, confidence=0.95):
    """Whether `paired_difference` over clusters has its upper bound at most `bound`."""
    n, groups = int(np.sum(sizes)), len(sizes)
    scale = effective_size(list(sizes)) / n
    passes = differences.passes(gained.sum(axis=1), lost.sum(axis=1), n, bound, scale, confidence)
    if np.all(np.asarray(sizes) == 1):
        return passes
    net = gained - lost
    mean = net.sum(axis=1) / n
    deviations = net - mean[:, None] * np.asarray(sizes)
    error = np.sqrt(groups / (groups - 1) * np.square(deviations).sum(axis=1)) / n
    return passes & (mean + t_quantile(confidence, groups - 1) * error <= bound)


def stops(totals, sizes, bound, low, high=1.0, confidence=0.95):
    """At which bet `Betting` says pass, counted from 1, and 0 where it never does; totals: runs × bets."""
    edges = (bound * np.asarray(sizes) - totals) / ((high - bound) * np.max(sizes))
    wealth = np.zeros(edges.shape)
    for fraction, share in zip(FRACTIONS, SHARES, strict=True):
        wealth += share * np.exp(np.minimum(np.cumsum(np.log1p(fraction * edges), axis=1), 600.0))
    won = wealth >= 1 / (1 - confidence)
    return np.where(won.any(axis=1), won.argmax(axis=1) + 1, 0)
