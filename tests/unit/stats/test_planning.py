"""Plans against brute force over all outcomes, closed forms, and what was simulated before."""

from itertools import product

import numpy as np
import pytest
from scipy import stats as reference

from dutchdoor import stats
from dutchdoor.stats.tango import tango_scores


def bound_of(gained: int, lost: int, n: int) -> float:
    rest = [False] * (n - gained - lost)
    candidate = [True] * gained + [False] * lost + rest
    return stats.paired_difference(candidate, [False] * gained + [True] * lost + rest).upper


def power_by_enumeration(n: int, margin: float, discordance: float, true: float) -> float:
    gain, loss = (discordance + true) / 2, (discordance - true) / 2
    outcomes = reference.multinomial(n, [gain, loss, 1 - gain - loss])
    return sum(
        float(outcomes.pmf([gained, lost, n - gained - lost]))
        for gained, lost in product(range(n + 1), repeat=2)
        if gained + lost <= n and bound_of(gained, lost, n) <= margin
    )


@pytest.mark.parametrize(
    ("n", "margin", "discordance", "true"),
    [
        (40, 0.1, 0.2, 0.0),
        (40, 0.1, 0.2, 0.1),
        (25, 0.2, 0.2, 0.2),
        (30, -0.1, 0.4, -0.2),
        (40, 0.1, 0.1, 0.05),
    ],
)
def test_the_power_of_a_difference_is_the_sum_over_all_outcomes(
    n: int, margin: float, discordance: float, true: float
) -> None:
    expected = power_by_enumeration(n, margin, discordance, true)
    assert stats.difference_power(n, margin, discordance, true=true) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("margin", "simulated"), [(0.02, 813), (0.03, 384), (0.05, 159)])
def test_differences_need_what_simulation_said_and_the_formula_did_not(margin: float, simulated: int) -> None:
    plan = stats.plan_difference(margin, 0.05)
    assert plan.n == pytest.approx(simulated, rel=0.011)
    assert 0.8 <= plan.power < 0.81
    assert stats.difference_power(simulated, margin, 0.05) >= 0.8


@pytest.mark.parametrize(
    ("margin", "discordance", "true", "power"),
    [
        (0.05, 0.05, 0.0, 0.8),
        (0.1, 0.2, 0.0, 0.9),
        (0.05, 0.1, -0.02, 0.7),
        (0.1, 0.1, 0.04, 0.8),
        (-0.1, 0.4, -0.25, 0.8),
    ],
)
def test_no_fewer_pairs_have_the_power(margin: float, discordance: float, true: float, power: float) -> None:
    plan = stats.plan_difference(margin, discordance, true=true, power=power)
    reached = [stats.difference_power(n, margin, discordance, true=true) for n in range(1, plan.n + 1)]
    assert max(reached[:-1]) < power <= reached[-1] == plan.power


@pytest.mark.parametrize(("bound", "n"), [(0.01, 299), (0.005, 598), (0.001, 2995)])
def test_a_rate_of_truly_nothing_needs_what_the_closed_form_says(bound: float, n: int) -> None:
    plan = stats.plan_rate(bound, 0.0)
    assert (plan.n, plan.power) == (n, 1.0)


@pytest.mark.parametrize(("bound", "true", "power"), [(0.1, 0.02, 0.8), (0.05, 0.01, 0.9), (0.3, 0.2, 0.8)])
def test_no_fewer_items_have_the_power(bound: float, true: float, power: float) -> None:
    def by_enumeration(n: int) -> float:
        passing = [k for k in range(n + 1) if stats.clopper_pearson_upper(k, n) <= bound]
        return float(reference.binom.pmf(passing, n, true).sum()) if passing else 0.0

    plan = stats.plan_rate(bound, true, power=power)
    assert plan.power == pytest.approx(by_enumeration(plan.n))
    assert plan.power >= power > max(by_enumeration(n) for n in range(1, plan.n))


def test_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be shown"):
        stats.plan_rate(0.05, 0.05)
    with pytest.raises(ValueError, match="cannot pass"):
        stats.plan_difference(0.03, 0.05, true=0.03)
    with pytest.raises(ValueError, match="cannot pass"):
        stats.plan_difference(0.03, 0.005, true=0.01)
    with pytest.raises(ValueError, match="power"):
        stats.plan_difference(0.03, 0.05, power=1.0)
    with pytest.raises(ValueError, match="more than"):
        stats.plan_difference(0.00001, 0.5)
    with pytest.raises(ValueError, match="more than"):
        stats.plan_rate(1e-9, 0.0)


def test_scores_of_many_counts_decide_as_the_limits_do() -> None:
    z = float(reference.norm.ppf(0.95))
    for n, delta in ((30, 0.1), (57, 0.03), (40, -0.2)):
        gained, lost = (np.array(side) for side in zip(*product(range(16), repeat=2), strict=True))
        scores = tango_scores(gained, lost, n, delta)
        uppers = [stats.tango_upper(a, b, n) for a, b in zip(gained.tolist(), lost.tolist(), strict=True)]
        assert ((scores <= -z) == (np.array(uppers) <= delta)).all()
