"""Tango's score limits of a difference of two rates over the same items."""

import math

import numpy as np
from numpy.typing import ArrayLike

from dutchdoor.stats.bounds import CONFIDENCE, Floats, check_confidence, last_that_holds, signed_root_ratio
from dutchdoor.stats.quantiles import normal_quantile


def tango_upper(gained: float, lost: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The score upper bound of p₁ − p₀ for binary pairs, by root finding.

    `gained`: pairs where only the candidate has the event, `lost`: only the baseline, of `n` pairs (counts
    may be fractions when they were scaled). Tango 1998, Statistics in Medicine 17:891: the largest Δ with
    (gained − lost − nΔ) / √(n(2q̃ + Δ(1 − Δ))) ≥ −z, q̃ the likelihood estimate of P(only baseline) under
    Δ. Without discordant pairs it is z²/(n + z²); 1 when n = 0 or every pair is gained.
    """
    check_confidence(confidence)
    if gained < 0 or lost < 0 or gained + lost > n * (1 + 1e-12):
        raise ValueError(f"{gained} and {lost} discordant of {n} pairs")
    if n == 0:
        return 1.0
    z = normal_quantile(confidence)

    def holds(delta: float) -> bool:
        return tango_score(gained, lost, n, delta) >= -z

    return last_that_holds(holds, (gained - lost) / n, 1.0)


def tango_lower(gained: float, lost: float, n: float, confidence: float = CONFIDENCE) -> float:
    """The score lower bound of p₁ − p₀ for binary pairs: the mirror of `tango_upper`."""
    return -tango_upper(lost, gained, n, confidence)


def tango_score(gained: float, lost: float, n: float, delta: float) -> float:
    linear = 2 * n * delta - gained - lost - delta * (gained - lost)
    constant = -lost * delta * (1 - delta)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    # the positive root of 2n·q² + linear·q + constant = 0, written so that nothing cancels
    q = (root - linear) / (4 * n) if linear <= 0 else -2 * constant / (root + linear)
    variance = n * (2 * q + delta * (1 - delta))
    return signed_root_ratio(gained - lost - n * delta, variance)


def tango_scores(gained: ArrayLike, lost: ArrayLike, n: float, delta: float) -> Floats:
    """Tango's score of Δ = `delta` for many counts at once: `tango_upper` is at most `delta` where it is ≤ −z.

    For 0 < |delta| < 1, where the variance cannot be 0.
    """
    gain, loss = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    linear = 2 * n * delta - gain - loss - delta * (gain - loss)
    constant = -loss * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0))
    small = np.divide(-2 * constant, root + linear, out=np.zeros_like(root), where=root + linear > 0)
    q = np.where(linear <= 0, (root - linear) / (4 * n), small)
    return (gain - loss - n * delta) / np.sqrt(n * (2 * q + delta * (1 - delta)))
