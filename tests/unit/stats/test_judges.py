"""Corrections for a judge: against the formula, what they become without error, and the worst point by search."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor import stats
from dutchdoor.stats.judges import _greatest, _Part


def gold(found: int, events: int, cleared: int, others: int) -> stats.Gold:
    judged = [True] * found + [False] * (events - found) + [False] * cleared + [True] * (others - cleared)
    return stats.Gold(judged, [True] * events + [False] * others)


def events(k: int, n: int) -> list[bool]:
    return [True] * k + [False] * (n - k)


def test_gold_labels_give_sensitivity_and_specificity() -> None:
    labels = gold(18, 20, 75, 80)
    assert (labels.sensitivity, labels.specificity) == (0.9, 75 / 80)
    assert stats.Gold([], []).sensitivity is None
    with pytest.raises(ValueError, match="gold labels"):
        stats.Gold([True], [])


def test_a_corrected_rate_is_the_formula() -> None:
    found = stats.judged_rate(events(90, 300), gold(18, 20, 76, 80))
    assert found.value == pytest.approx((0.3 + 0.95 - 1) / (0.9 + 0.95 - 1))
    assert found.lower < found.value < found.upper


def test_a_corrected_difference_is_the_difference_of_corrected_rates() -> None:
    candidate, baseline = events(90, 300), events(60, 300)
    labels, others = gold(18, 20, 76, 80), gold(14, 20, 78, 80)
    found = stats.judged_difference(candidate, baseline, labels, others)
    expected = stats.judged_rate(candidate, labels).value - stats.judged_rate(baseline, others).value
    assert found.value == pytest.approx(expected)
    assert found.lower < expected < found.upper


def test_a_judge_without_error_changes_nothing() -> None:
    sure = gold(10**7, 10**7, 10**7, 10**7)
    plain, judged = stats.rate(events(12, 300)), stats.judged_rate(events(12, 300), sure)
    assert (judged.value, judged.lower, judged.upper) == pytest.approx(
        (plain.value, plain.lower, plain.upper), abs=1e-6
    )
    a, b = events(12, 300), events(0, 8) + events(9, 292)
    difference, corrected = stats.paired_difference(a, b), stats.judged_difference(a, b, sure, sure)
    assert (corrected.lower, corrected.upper) == pytest.approx((difference.lower, difference.upper), abs=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        stats.Gold([], []),
        gold(5, 5, 0, 0),
        gold(0, 0, 5, 5),
        gold(5, 10, 5, 10),
        gold(1, 10, 2, 10),
        gold(2, 3, 2, 3),
    ],
    ids=["none", "only events", "no events", "chance", "worse than chance", "perhaps chance"],
)
def test_labels_that_say_too_little_claim_nothing(labels: stats.Gold) -> None:
    found = stats.judged_rate(events(0, 1000), labels)
    assert (found.value, found.lower, found.upper) == (None, 0.0, 1.0)
    for sides in ((labels, gold(50, 50, 50, 50)), (gold(50, 50, 50, 50), labels)):
        both = stats.judged_difference(events(0, 1000), events(0, 1000), *sides)
        assert (both.value, both.lower, both.upper) == (None, -1.0, 1.0)


def test_nothing_judged_claims_nothing() -> None:
    sure = gold(50, 50, 50, 50)
    assert stats.judged_rate([], sure).upper == 1.0
    assert stats.judged_difference([], [], sure, sure).lower == -1.0


def test_fewer_labels_make_wider_bounds() -> None:
    few, many = gold(18, 20, 38, 40), gold(180, 200, 380, 400)
    narrow, wide = stats.judged_rate(events(60, 300), many), stats.judged_rate(events(60, 300), few)
    assert narrow.value == wide.value
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_clusters_widen_a_judged_rate() -> None:
    names = [i // 5 for i in range(300)]
    labels = gold(45, 50, 190, 200)
    assert (
        stats.judged_rate(events(60, 300), labels, names).upper
        > stats.judged_rate(events(60, 300), labels).upper
    )


@given(st.integers(0, 200), st.integers(0, 20), st.integers(0, 30))
def test_a_bound_is_the_worst_point_of_the_ellipsoid(k: int, found: int, cleared: int) -> None:
    labels = gold(found, 20, cleared, 30)
    bounds = stats.judged_rate(events(k, 200), labels)
    if bounds.value is None:
        return
    raw = stats.rate(events(k, 200))
    parts = [
        (k / 200, raw.lower, raw.upper),
        (found / 20, stats.clopper_pearson_lower(found, 20), stats.clopper_pearson_upper(found, 20)),
        (cleared / 30, stats.clopper_pearson_lower(cleared, 30), stats.clopper_pearson_upper(cleared, 30)),
    ]
    directions = np.random.default_rng(5).normal(size=(20_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    q, se, sp = (
        value + u * np.where(u > 0, upper - value, value - lower)
        for u, (value, lower, upper) in zip(directions.T, parts, strict=True)
    )
    values = np.clip((q + sp - 1) / (se + sp - 1), 0, 1)
    assert bounds.upper >= values.max() - 1e-9
    assert bounds.lower <= values.min() + 1e-9
    assert bounds.upper - values.max() < 0.02  # the search by chance comes near
    assert values.min() - bounds.lower < 0.02


def test_where_the_value_is_linear_the_worst_point_has_its_closed_form() -> None:
    parts = [_Part(0.0, -0.3, 0.4), _Part(1.0, 0.5, 1.1), _Part(0.2, 0.2, 0.2)]
    assert _greatest(parts, lambda a, b, c: a - b + 5 * c) == pytest.approx(math.hypot(0.4, 0.5))
