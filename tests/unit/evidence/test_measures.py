"""Missing scores count against whatever is claimed, and pairs are made by id."""

import math
from itertools import product

import pytest

from dutchdoor import stats
from dutchdoor.core import EvidenceError, ThreatModel
from dutchdoor.evidence.measures import difference, rate, ratio
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Subject


def evidence(
    *correct: bool | None, suite: str = "sha256:s", first: int = 0, clusters: str | None = None
) -> Evidence:
    names = clusters or ""
    outcomes = tuple(
        Outcome(id=str(first + i), correct=x, refused=x, cluster=names[i] if names else None)
        for i, x in enumerate(correct)
    )
    return Evidence(
        subject=Subject(family="f", member="m", variant="v", commitment="c"),
        conditions=Conditions(
            suite="skill.x", suite_digest=suite, threat=ThreatModel.GUARDED, engine="e", engine_version="1"
        ),
        outcomes=outcomes,
        made_at="2026-11-22T00:00:00Z",
        code_version="0",
    )


def test_a_rate_without_missing_is_clopper_pearson() -> None:
    found = rate(evidence(*[True] * 3, *[False] * 97), "correct")
    assert found.value == 0.03
    assert found.upper == stats.clopper_pearson_upper(3, 100)
    assert found.lower == stats.clopper_pearson_lower(3, 100)
    assert (found.n, found.missing, found.clusters, found.because) == (100, 0, None, None)


def test_a_missing_case_is_an_event_for_the_upper_bound_and_none_for_the_lower() -> None:
    found = rate(evidence(None, *[False] * 99), "correct")
    assert found.upper == stats.clopper_pearson_upper(1, 100)
    assert found.lower == 0.0
    assert (found.value, found.missing) == (0.0, 1)
    certain = rate(evidence(None, *[True] * 99), "correct")
    assert certain.lower == stats.clopper_pearson_lower(99, 100)
    assert certain.upper == 1.0


def test_a_missing_baseline_is_never_counted_as_harmful_for_a_pass() -> None:
    """Facts/vetting.md, 8: the reverse would turn an upper bound of 5.8 % into 1.5 %."""
    candidate = evidence(*[False] * 100)
    full, holed = evidence(*[False] * 100), evidence(None, None, *[False] * 98)
    assert difference(candidate, holed, "correct").upper == difference(candidate, full, "correct").upper
    assert difference(candidate, holed, "correct").lower < difference(candidate, full, "correct").lower
    assert difference(candidate, holed, "correct").missing == 2


@pytest.mark.parametrize("compare", [difference, ratio])
def test_no_way_to_fill_the_missing_gives_a_wider_bound(compare) -> None:  # type: ignore[no-untyped-def]
    base_a = [True] * 12 + [False] * 8
    base_b = [True] * 9 + [False] * 9 + [True] * 2
    holes_a, holes_b = [0, 13], [5, 13]
    a = [None if i in holes_a else x for i, x in enumerate(base_a)]
    b = [None if i in holes_b else x for i, x in enumerate(base_b)]
    found = compare(evidence(*a), evidence(*b), "correct")
    for values in product([True, False], repeat=4):
        fill_a, fill_b = (
            dict(zip(holes_a, values[:2], strict=True)),
            dict(zip(holes_b, values[2:], strict=True)),
        )
        one = compare(
            evidence(*[fill_a.get(i, x) for i, x in enumerate(a)]),
            evidence(*[fill_b.get(i, x) for i, x in enumerate(b)]),
            "correct",
        )
        assert found.lower <= one.lower + 1e-9
        assert one.upper <= found.upper + 1e-9
    assert (found.n, found.missing) == (20, 3)


@pytest.mark.parametrize(("missing", "conclusive"), [(2, True), (3, False)])
def test_more_than_max_missing_on_either_side_concludes_nothing(missing: int, conclusive: bool) -> None:
    holed, full = evidence(*[None] * missing, *[False] * (100 - missing)), evidence(*[False] * 100)
    for found in (
        rate(holed, "correct"),
        difference(holed, full, "correct"),
        difference(full, holed, "correct"),
    ):
        assert (found.because is None) == conclusive
    assert rate(holed, "correct", max_missing=0.0).because is not None
    assert rate(holed, "correct", max_missing=0.5).because is None


def test_ids_that_only_one_side_has_are_missing() -> None:
    found = difference(evidence(*[True] * 10), evidence(*[True] * 10, first=5), "correct", max_missing=1.0)
    assert (found.n, found.missing, found.value) == (15, 10, 0.0)
    assert difference(evidence(*[True] * 10), evidence(*[True] * 10, first=5), "correct").because is not None


def test_the_order_of_outcomes_does_not_matter() -> None:
    one, other = evidence(True, False, True, False), evidence(False, False, True, True)
    turned = Evidence(
        subject=other.subject,
        conditions=other.conditions,
        outcomes=other.outcomes[::-1],
        made_at="",
        code_version="",
    )
    assert difference(one, other, "correct") == difference(one, turned, "correct")


def test_nothing_measured_concludes_nothing() -> None:
    found = rate(evidence(), "correct")
    assert found.because == "nothing was measured"
    assert (found.lower, found.upper) == (0.0, 1.0)
    assert difference(evidence(), evidence(), "correct").because == "nothing was measured"


def test_two_versions_of_a_suite_are_not_compared() -> None:
    found = difference(evidence(True), evidence(True, suite="sha256:other"), "correct")
    assert found.because is not None
    assert "versions of the suite" in found.because


def test_sides_that_disagree_about_clusters_are_not_compared() -> None:
    found = difference(evidence(True, True, clusters="ab"), evidence(True, True, clusters="aa"), "correct")
    assert found.because is not None


def test_a_case_that_came_out_twice_is_refused() -> None:
    twice = [Outcome(id="1", correct=True, refused=False)] * 2
    with pytest.raises(EvidenceError, match="twice"):
        rate(twice, "correct")


def test_bare_outcomes_are_measured_too() -> None:
    a = [Outcome(id=str(i), correct=True, refused=False) for i in range(40)]
    b = [Outcome(id=str(i), correct=i % 2 == 0, refused=False) for i in range(40)]
    found = difference(a, b, "correct")
    assert found.value == 0.5
    assert found.lower > 0.3
    assert rate(a, "refused").value == 0.0


def test_clusters_widen_and_are_counted() -> None:
    alone = rate(evidence(*[False] * 26), "correct")
    shared = rate(evidence(*[False] * 26, clusters="abcdefghijklm" * 2), "correct")
    assert shared.clusters == 13
    assert shared.upper > alone.upper


def test_a_ratio_to_nothing_is_unbounded_and_never_a_pass() -> None:
    found = ratio(evidence(*[False] * 50), evidence(*[False] * 50), "correct")
    assert found.upper == math.inf
    assert found.value is None
