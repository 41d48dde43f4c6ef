"""The grid, and what happens in one cell of it: how often a claim passes that should not, and one that should."""

import itertools
import zlib

import numpy as np
from bench.simulate import rules, worlds

from dutchdoor import stats

CHUNK = 2_000_000  # outcomes drawn at once


def grid(quick):
    """All cells, as (kind, settings)."""
    return [
        *exact_rates(quick),
        *exact_differences(quick),
        *clustered(quick),
        *sequential(quick),
        *judged(quick),
    ]


def exact_rates(quick):
    sizes = (100, 450) if quick else (60, 100, 200, 299, 450, 1000, 3000)
    bounds = (0.01, 0.05) if quick else (0.005, 0.01, 0.02, 0.05, 0.1, 0.3)
    for n, bound in itertools.product(sizes, bounds):
        yield "rate", {"n": n, "bound": bound}


def exact_differences(quick):
    sizes = (200, 450) if quick else (27, 52, 88, 100, 132, 200, 300, 450, 813, 1500, 3000)
    margins = (0.03,) if quick else (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
    for n, margin in itertools.product(sizes, margins):
        # the smallest has every discordant pair gained, the largest nearly as many lost
        for discordance in (margin, 1.2 * margin, 1.67 * margin, 0.05, 0.1, 0.2, 0.4, 1.0):
            if discordance >= margin:
                yield "difference", {"n": n, "bound": margin, "discordance": discordance}


def clustered(quick):
    groups = (10, 90) if quick else (10, 30, 90, 450)
    kinds = ("5", "mixed") if quick else ("2", "5", "20", "50", "mixed", "one-large")
    correlations = (0, 0.5, 1) if quick else (0, 0.1, 0.5, 0.9, 1)
    for g, size, correlation in itertools.product(groups, kinds, correlations):
        ways = ("copy",) if quick or correlation in (0, 1) else ("copy", "dirichlet")
        for way in ways:
            where = {"groups": g, "size": size, "correlation": correlation, "way": way}
            for bound in (0.05,) if quick else (0.02, 0.05, 0.1):
                yield "clustered rate", {**where, "bound": bound}
            for bound, discordance in (
                ((0.03, 0.05),) if quick else ((0.03, 0.03), (0.03, 0.05), (0.05, 0.05))
            ):
                yield "clustered difference", {**where, "bound": bound, "discordance": discordance}


def sequential(quick):
    for n in (450,) if quick else (450, 1500):
        for bound in (0.05,) if quick else (0.01, 0.05, 0.2):
            yield "sequential rate", {"n": n, "bound": bound, "size": "1", "correlation": 0}
        for bound, discordance in ((0.03, 0.05),) if quick else (
            (0.03, 0.03), (0.03, 0.05), (0.03, 0.2), (0.1, 0.3), (0.1, 0.1)
        ):  # fmt: skip
            where = {"n": n, "bound": bound, "discordance": discordance}
            yield "sequential difference", {**where, "size": "1", "correlation": 0}
            for size, correlation in itertools.product(("5", "mixed"), (0, 0.5, 1)):
                yield "sequential difference", {**where, "size": size, "correlation": correlation}


def judged(quick):
    judges = (
        ((0.9, 0.95), (0.7, 0.8))
        if quick
        else ((0.99, 0.99), (0.9, 0.95), (0.7, 0.9), (0.6, 0.7), (1.0, 1.0))
    )
    labels = ((20, 40),) if quick else ((4, 8), (10, 10), (20, 40), (50, 200), (200, 400))
    for (found, cleared), (events, others) in itertools.product(judges, labels):
        where = {"n": 450, "found": found, "cleared": cleared, "events": events, "others": others}
        for bound in (0.1,) if quick else (0.02, 0.1, 0.3):
            yield "judged rate", {**where, "bound": bound}
        yield "judged difference", {**where, "bound": 0.05, "discordance": 0.1}


def measure(kind, settings, runs, salt=0):
    """(false pass, power, runs or null where it is exact) of one cell."""
    if kind == "rate":
        return _rate(**settings)
    if kind == "difference":
        n, bound, discordance = settings["n"], settings["bound"], settings["discordance"]
        false = stats.difference_power(n, bound, discordance, true=bound)
        return false, stats.difference_power(n, bound, discordance), None
    seed = zlib.crc32(repr((kind, sorted(settings.items()), salt)).encode())
    passes = PASSES[kind]
    if kind.startswith("judged"):
        runs = max(200, runs // 5)  # each draw is a search of its own
    rates = []
    for boundary in (True, False):
        generator = np.random.default_rng([seed, boundary])
        rates.append(float(np.mean(passes(generator, runs, boundary=boundary, **settings))))
    return rates[0], rates[1], runs


def _rate(n, bound):
    from scipy.special import bdtr

    most = rules.most_events(n, bound)
    if most < 0:
        return 0.0, 0.0, None
    return float(bdtr(most, n, bound)), float(bdtr(most, n, bound / 4)), None


def _kinds(bound, discordance, boundary):
    """Chances of a gained, a lost and an equal pair: truly at the bound, or truly equal."""
    true = bound if boundary else 0.0
    gain = (discordance + true) / 2
    return gain, discordance - gain, 1 - discordance


def _in_chunks(generator, runs, sizes, chances, correlation, way, passes):
    step = max(1, CHUNK // len(sizes) // len(chances))
    for start in range(0, runs, step):
        yield from passes(worlds.counts(generator, min(step, runs - start), sizes, chances, correlation, way))


def _clustered_rate(generator, runs, boundary, groups, size, correlation, way, bound):
    sizes = worlds.sizes_of(groups, size)
    rate = bound if boundary else bound / 4
    return list(
        _in_chunks(
            generator, runs, sizes, (rate, 1 - rate), correlation, way,
            lambda drawn: rules.rate_passes(drawn[..., 0], sizes, bound),
        )
    )  # fmt: skip


def _clustered_difference(generator, runs, boundary, groups, size, correlation, way, bound, discordance):
    sizes = worlds.sizes_of(groups, size)
    return list(
        _in_chunks(
            generator, runs, sizes, _kinds(bound, discordance, boundary), correlation, way,
            lambda drawn: rules.difference_passes(drawn[..., 0], drawn[..., 1], sizes, bound),
        )
    )  # fmt: skip


def _sequential(generator, runs, boundary, n, bound, size, correlation, discordance=None):
    if discordance is None:
        rate = bound if boundary else bound / 4
        chances, low = (rate, 1 - rate), 0.0
    else:
        chances, low = _kinds(bound, discordance, boundary), -1.0
    mean = worlds.sizes_of(50, size).mean()
    sizes = worlds.sizes_of(max(2, round(n / mean)), size)

    def passes(drawn):
        totals = drawn[..., 0] - (0 if discordance is None else drawn[..., 1])
        order = generator.permutation(len(sizes))  # whole clusters, in random order
        return rules.stops(totals[:, order], sizes[order], bound, low) > 0

    return list(_in_chunks(generator, runs, sizes, chances, correlation, "copy", passes))


def _gold(generator, found, cleared, events, others):
    truth = np.repeat([True, False], [events, others])
    chance = np.where(truth, found, 1 - cleared)
    return stats.Gold((generator.random(len(truth)) < chance).tolist(), truth.tolist())


def _judged_rate(generator, runs, boundary, n, bound, found, cleared, events, others):
    true = bound if boundary else bound / 4
    seen = true * found + (1 - true) * (1 - cleared)
    for k in generator.binomial(n, seen, runs).tolist():
        gold = _gold(generator, found, cleared, events, others)
        yield stats.judged_rate([True] * k + [False] * (n - k), gold).upper <= bound


def _judged_difference(generator, runs, boundary, n, bound, discordance, found, cleared, events, others):
    gain, lose, _ = _kinds(bound, discordance, boundary)
    both = 0.05  # of the pairs that agree
    better = (min(1.0, found + 0.05), min(1.0, cleared + 0.03))  # the judge errs less about the baseline
    for _ in range(runs):
        kind = generator.random(n)
        gained, lost = kind < gain, (kind >= gain) & (kind < gain + lose)
        shared = kind > 1 - both
        candidate = generator.random(n) < np.where(gained | shared, found, 1 - cleared)
        baseline = generator.random(n) < np.where(lost | shared, better[0], 1 - better[1])
        golds = _gold(generator, found, cleared, events, others), _gold(generator, *better, events, others)
        yield stats.judged_difference(candidate.tolist(), baseline.tolist(), *golds).upper <= bound


PASSES = {
    "clustered rate": _clustered_rate,
    "clustered difference": _clustered_difference,
    "sequential rate": _sequential,
    "sequential difference": _sequential,
    "judged rate": lambda *a, **k: list(_judged_rate(*a, **k)),
    "judged difference": lambda *a, **k: list(_judged_difference(*a, **k)),
}
