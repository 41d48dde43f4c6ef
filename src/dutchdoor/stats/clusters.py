"""Items that share a source: how many independent ones they are worth, and t that is robust to them."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from dutchdoor.stats.bounds import CONFIDENCE, Clusters, Floats, check_confidence
from dutchdoor.stats.quantiles import t_quantile


def effective_size(sizes: Sequence[int]) -> float:
    """(Σ n_g)² / Σ n_g²: how many independent items clusters of these sizes are worth at full correlation."""
    total = sum(sizes)
    return total * total / sum(size * size for size in sizes) if total else 0.0


def cluster_t(differences: Floats, clusters: Clusters, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Lower and upper bound of a mean by cluster-robust t with G − 1 degrees of freedom; infinite for G < 2.

    SE² = G/(G − 1) · Σ_g (Σ_{i∈g} (d_i − d̄))² / n² (Miller 2024, arXiv 2411.00640, with the small-sample
    factor). Zero when all differences are equal, so never use it alone on binary data.
    """
    check_confidence(confidence)
    totals = cluster_totals((differences - differences.mean()).reshape(-1, 1), clusters)[:, 0]
    groups = len(totals)
    if groups < 2:
        return -math.inf, math.inf
    error = math.sqrt(groups / (groups - 1) * float(totals @ totals)) / len(differences)
    width = t_quantile(confidence, groups - 1) * error
    mean = float(differences.mean())
    return mean - width, mean + width


def cluster_totals(columns: Floats, clusters: Clusters) -> Floats:
    """The sum of each column within each cluster, clusters × columns."""
    numbers: dict[Hashable, int] = {}
    index = [
        numbers.setdefault(("alone", i) if cluster is None else ("shared", cluster), len(numbers))
        for i, cluster in enumerate(clusters)
    ]
    totals = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(totals, index, columns)
    return totals


def cluster_sizes(clusters: Clusters | None, n: int) -> list[int] | None:
    """The sizes of the clusters; null when no two items share one."""
    if clusters is None:
        return None
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster names for {n} items")
    shared = Counter(cluster for cluster in clusters if cluster is not None)
    if all(size == 1 for size in shared.values()):
        return None
    return [*shared.values(), *(1 for cluster in clusters if cluster is None)]


def scale_of(sizes: Sequence[int] | None, n: int) -> float:
    return 1.0 if sizes is None else effective_size(sizes) / n
