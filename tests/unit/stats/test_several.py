"""Holm, and p-values out of bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from dutchdoor import stats


def test_holm_as_worked_out_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, none smaller than the one before
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.01, 0.2))
def test_holm_claims_what_the_step_down_procedure_claims(p_values: list[float], alpha: float) -> None:
    claimed: set[int] = set()
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        if (len(p_values) - rank) * p_values[i] > alpha:
            break
        claimed.add(i)
    assert {i for i, p in enumerate(stats.holm(p_values)) if p <= alpha} == claimed


def test_holm_of_nothing_and_of_no_p_values() -> None:
    assert stats.holm([]) == []
    with pytest.raises(ValueError, match="p-value"):
        stats.holm([1.2])


@pytest.mark.parametrize(("k", "n", "bound"), [(9, 100, 0.05), (3, 10, 0.1), (40, 400, 0.08)])
def test_a_p_value_out_of_bounds_is_that_of_the_exact_test(k: int, n: int, bound: float) -> None:
    found = stats.p_above(lambda confidence: stats.clopper_pearson_lower(k, n, confidence), bound)
    assert found == pytest.approx(reference.binomtest(k, n, bound, alternative="greater").pvalue, rel=1e-6)


def test_what_lies_below_the_bound_is_no_claim() -> None:
    assert stats.p_above(lambda confidence: stats.clopper_pearson_lower(1, 100, confidence), 0.05) == 1.0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (7, 30), (10, 10), (3, 400)])
def test_wilson_agrees_with_scipy(k: int, n: int) -> None:
    expected = reference.binomtest(k, n).proportion_ci(confidence_level=0.90, method="wilson")
    assert stats.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing() -> None:
    assert stats.wilson(0, 0) == (0.0, 1.0)
