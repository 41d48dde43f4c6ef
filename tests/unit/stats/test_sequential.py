"""Betting: against the products written out, its bounds, its clusters, and what it refuses."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor import stats
from dutchdoor.stats.betting import FRACTIONS, SHARES


def wealth(values: list[float], m: float, high: float = 1.0) -> float:
    """Four bettors, each the product of its factors, written out."""
    return sum(
        share * math.prod(1 + f * (m - x) / (high - m) for x in values)
        for f, share in zip(FRACTIONS.tolist(), SHARES.tolist(), strict=True)
    )


def pairs(*differences: int) -> tuple[list[bool], list[bool]]:
    return [d > 0 for d in differences], [d < 0 for d in differences]


def test_the_stakes_make_a_fair_game() -> None:
    assert sum(SHARES) == pytest.approx(1)
    assert all(0 < f < 1 for f in FRACTIONS)  # 1 could lose everything and never win again


@pytest.mark.parametrize("m", [0.0, 0.03, 0.4])
def test_a_bet_against_the_truth_wins_nothing_on_average(m: float) -> None:
    """Truth at m: with d in {−1, 0, 1} the expected factor is 1 whatever the stake."""
    gain, loss = 0.3 + m / 2, 0.3 - m / 2
    expected = gain * wealth([1], m) + loss * wealth([-1], m) + (1 - gain - loss) * wealth([0], m)
    assert expected == pytest.approx(1)


def test_it_stops_at_the_first_item_at_which_the_wealth_is_twenty() -> None:
    generator = np.random.default_rng(2)
    differences = generator.choice([-1, 0, 1], size=600, p=[0.02, 0.97, 0.01]).tolist()
    found = stats.sequential_difference(*pairs(*differences), bound=0.03)
    first = next(t for t in range(1, 601) if wealth(differences[:t], 0.03) >= 20)
    assert (found.verdict, found.stopped_at, found.n) == ("pass", first, first)
    assert found.value == pytest.approx(np.mean(differences[:first]))
    assert found.upper <= 0.03


def test_its_bounds_are_where_the_wealth_is_twenty() -> None:
    differences = [0, 1, 0, -1, 0, 0, 1, 0, 0, -1] * 8
    found = stats.sequential_difference(*pairs(*differences), bound=0.05)
    assert found.verdict == "inconclusive"
    assert wealth(differences, found.upper) == pytest.approx(20, rel=1e-6)
    assert wealth([-d for d in differences], -found.lower) == pytest.approx(20, rel=1e-6)
    assert (found.stopped_at, found.n) == (None, 80)


def test_a_rate_without_events_passes_when_one_bettor_alone_would_have_too() -> None:
    found = stats.sequential_rate([False] * 1000, bound=0.01)
    assert found.verdict == "pass"
    assert found.stopped_at is not None
    assert wealth([0.0] * found.stopped_at, 0.01) >= 20 > wealth([0.0] * (found.stopped_at - 1), 0.01)


def test_a_rate_that_is_too_high_fails() -> None:
    found = stats.sequential_rate([True, False, False] * 60, bound=0.05)
    assert found.verdict == "fail"
    assert found.lower > 0.05


def test_a_verdict_is_final() -> None:
    betting = stats.Betting(0.1, low=0.0)
    while betting.verdict == "inconclusive":
        betting.add(0.0)
    before = (betting.n, betting.upper, betting.value)
    for _ in range(50):
        assert betting.add(1.0) == "pass"
    assert (betting.n, betting.upper, betting.value) == before


def test_missing_scores_count_against_each_claim() -> None:
    passing, failing = stats.Betting(0.05, low=0.0), stats.Betting(0.05, low=0.0)
    for i in range(400):
        passing.add(float(i % 3 == 0), at_least=0.0)  # a third is missing
        failing.add(0.0)
    assert passing.verdict == "inconclusive"
    assert (passing.lower, passing.upper) != (failing.lower, failing.upper)
    assert passing.lower < 0.05 < passing.upper
    assert failing.verdict == "pass"


def test_nothing_looked_at_says_nothing() -> None:
    found = stats.sequential_difference([], [], bound=0.03)
    assert (found.verdict, found.n, found.value, found.lower, found.upper) == (
        "inconclusive",
        0,
        None,
        -1.0,
        1.0,
    )
    assert stats.sequential_rate([], bound=0.03).lower == 0.0


def test_clusters_of_one_change_nothing() -> None:
    sides = pairs(*[0, 1, -1, 0, 0] * 20)
    assert stats.sequential_difference(*sides, bound=0.2) == stats.sequential_difference(
        *sides, bound=0.2, clusters=list(range(100))
    )


def test_a_cluster_is_one_bet() -> None:
    # 40 clusters of 5 alike are 40 items
    alike = [d for d in [0, 0, 0, 1, 0, -1, 0, 0] * 5 for _ in range(5)]
    found = stats.sequential_difference(*pairs(*alike), bound=0.2, clusters=[i // 5 for i in range(200)])
    alone = stats.sequential_difference(*pairs(*alike[::5]), bound=0.2)
    assert (found.verdict, found.upper, found.lower) == (alone.verdict, alone.upper, alone.lower)
    assert found.n == 5 * alone.n
    assert found.clusters == alone.n


def test_small_clusters_bet_little() -> None:
    singles = stats.Betting(0.05, low=0.0)
    beside_large = stats.Betting(0.05, low=0.0, largest=10)
    for _ in range(200):
        singles.add(0.0)
        beside_large.add(0.0)
    assert singles.verdict == "pass"
    assert beside_large.verdict == "inconclusive"
    with pytest.raises(ValueError, match="largest"):
        beside_large.add(0.0, 11)


def test_torn_clusters_are_put_together_and_shuffled() -> None:
    """Large clusters are all events, singles none: by completion the singles would come first and pass."""
    n = 400
    names: list[object] = [i % 4 if i % 2 else None for i in range(n)]
    events = [name is not None for name in names]
    found = stats.sequential_rate(events, bound=0.2, clusters=names)
    assert found.verdict != "pass"
    assert found == stats.sequential_rate(events, bound=0.2, clusters=names)


def test_a_shuffled_order_keeps_clusters_whole_and_loses_nothing() -> None:
    names = ["a", None, "b", "a", None, "b", "a"]
    orders = [stats.shuffled(7, names, seed) for seed in range(200)]
    for order in orders:
        assert sorted(order) == list(range(7))
        places = [order.index(i) for i in (0, 3, 6)]
        assert max(places) - min(places) == 2
    first = [names[order[0]] for order in orders]
    assert 30 <= sum(name == "a" for name in first) <= 70  # one in four, whatever its size
    assert stats.shuffled(7, names, 3) == stats.shuffled(7, names, 3)


@pytest.mark.parametrize("bound", [1.0, -1.0, 2.0])
def test_a_bound_that_nothing_could_miss_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="bound"):
        stats.Betting(bound)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        stats.Betting(0.1).add(1.5)
    with pytest.raises(ValueError, match="outside"):
        stats.Betting(0.1).add(0.0, at_least=0.5)
    with pytest.raises(ValueError, match="confidence"):
        stats.Betting(0.1, confidence=0.5)


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 5)), max_size=60), st.floats(-0.5, 0.5))
def test_verdict_and_bounds_agree_and_swap_with_the_sides(items: list[tuple[int, int]], bound: float) -> None:
    differences, names = [d for d, _ in items], [name for _, name in items]
    there = stats.sequential_difference(*pairs(*differences), bound=bound, clusters=names)
    assert -1 <= there.lower <= there.upper <= 1
    assert (there.verdict == "pass") == (there.upper <= bound + 1e-12)
    assert (there.verdict == "fail") == (there.lower >= bound - 1e-12)
    back = stats.sequential_difference(*pairs(*differences)[::-1], bound=-bound, clusters=names)
    assert (there.lower, there.upper) == pytest.approx((-back.upper, -back.lower), abs=1e-9)


def test_450_items_take_well_under_50_milliseconds() -> None:
    sides = pairs(*np.random.default_rng(1).choice([-1, 0, 1], size=450, p=[0.1, 0.8, 0.1]).tolist())
    stats.paired_difference(*sides)
    fastest = []
    for judge in (stats.paired_difference, lambda a, b: stats.sequential_difference(a, b, bound=0.01)):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            judge(*sides)
            times.append(time.perf_counter() - began)
        fastest.append(min(times))
    assert max(fastest) < 0.05
