"""How outcomes are drawn: pairs and events, alone or in clusters whose items hang together.

Two ways to hang together, both with correlation r between any two items of a cluster: an item copies its
cluster's outcome with chance √r, or a cluster has rates of its own from a Dirichlet distribution.
"""

import numpy as np


def counts(generator, runs, sizes, chances, correlation, way="copy"):
    """Runs × clusters × kinds: how many items of each cluster came out as each kind."""
    sizes = np.broadcast_to(np.asarray(sizes), (runs, len(sizes)))
    if correlation == 0:
        return generator.multinomial(sizes, chances)
    if correlation == 1:
        return generator.multinomial(np.ones_like(sizes), chances) * sizes[..., None]
    if way == "copy":
        copied = generator.binomial(sizes, np.sqrt(correlation))
        own = generator.multinomial(np.ones_like(sizes), chances)
        return own * copied[..., None] + generator.multinomial(sizes - copied, chances)
    shape = np.maximum(np.asarray(chances) * (1 - correlation) / correlation, 1e-12)
    drawn = generator.standard_gamma(np.broadcast_to(shape, (*sizes.shape, len(chances))))
    drawn += 1e-300  # a row of zeros would be no distribution
    rates = drawn / drawn.sum(axis=-1, keepdims=True)
    return generator.multinomial(sizes, rates)


def sizes_of(groups, kind):
    """Cluster sizes: a number for all, `mixed` (1 to 50, spread on a log scale), or `one-large` (50 and singles)."""
    if kind == "mixed":
        return np.geomspace(1, 50, groups).round().astype(int)
    if kind == "one-large":
        return np.array([50] + [1] * (groups - 1))
    return np.full(groups, int(kind))
