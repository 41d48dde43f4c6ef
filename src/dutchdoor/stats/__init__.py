"""Intervals and tests that several rooms use: rates, paired differences, ratios and means, each with clusters.

Every bound is one-sided at `confidence`: `lower` and `upper` may each be used for a claim of their own at
that level, and together they are an interval at 2·confidence − 1. Bounds decide nothing. No function here
treats a missing score: who calls fills it in against the claim first (`dutchdoor.evidence.measures`).

Needs numpy at import; scipy.special only where a bound is computed from it, scipy.stats never.
"""

from dutchdoor.stats.betting import Betting
from dutchdoor.stats.bounds import CONFIDENCE, Bounds, Clusters, Floats
from dutchdoor.stats.clusters import cluster_t, effective_size
from dutchdoor.stats.differences import paired_difference, paired_mean
from dutchdoor.stats.holm import holm, p_above
from dutchdoor.stats.judges import Gold, judged_difference, judged_rate
from dutchdoor.stats.planning import Plan, difference_power, plan_difference, plan_rate
from dutchdoor.stats.rates import clopper_pearson_lower, clopper_pearson_upper, rate, wilson
from dutchdoor.stats.ratios import paired_ratio, score_ratio_lower, score_ratio_upper
from dutchdoor.stats.sequential import Sequential, sequential_difference, sequential_rate, shuffled
from dutchdoor.stats.tango import tango_lower, tango_upper

__all__ = [
    "CONFIDENCE",
    "Betting",
    "Bounds",
    "Clusters",
    "Floats",
    "Gold",
    "Plan",
    "Sequential",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "cluster_t",
    "difference_power",
    "effective_size",
    "holm",
    "judged_difference",
    "judged_rate",
    "p_above",
    "paired_difference",
    "paired_mean",
    "paired_ratio",
    "plan_difference",
    "plan_rate",
    "rate",
    "score_ratio_lower",
    "score_ratio_upper",
    "sequential_difference",
    "sequential_rate",
    "shuffled",
    "tango_lower",
    "tango_upper",
    "wilson",
]
