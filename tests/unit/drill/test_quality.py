"""From outcomes to the verdict on quality."""

import pytest

from dutchdoor.core import VerdictKind
from dutchdoor.drill.quality import judge
from dutchdoor.drill.report import Reply, Sample
from dutchdoor.engines.interface import Message
from dutchdoor.stats import tango_lower, tango_upper

ASKED = (Message(role="user", content="?"),)


def samples(both: int, only_a: int, only_b: int, neither: int, *, cluster_of: int = 1) -> list[Sample]:
    pairs = (
        [(True, True)] * both
        + [(True, False)] * only_a
        + [(False, True)] * only_b
        + [(False, False)] * neither
    )
    return [
        Sample(
            id=str(i),
            messages=ASKED,
            cluster=str(i // cluster_of) if cluster_of > 1 else None,
            a=Reply(text="x", correct=a),
            b=Reply(text="x", correct=b),
        )
        for i, (a, b) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("only_a", "only_b", "verdict"),
    [(10, 10, VerdictKind.PASS), (1, 80, VerdictKind.FAIL), (20, 40, VerdictKind.INCONCLUSIVE)],
)
def test_each_verdict_is_reached_by_its_bound(only_a: int, only_b: int, verdict: VerdictKind) -> None:
    found = judge(samples(200, only_a, only_b, 100), margin=0.05, confidence=0.95)
    n = 300 + only_a + only_b
    assert found.verdict is verdict
    assert found.value == pytest.approx((only_a - only_b) / n)
    assert found.lower == pytest.approx(tango_lower(only_a, only_b, n, 0.95), abs=1e-6)
    assert found.upper == pytest.approx(tango_upper(only_a, only_b, n, 0.95), abs=1e-6)
    assert (found.bound, found.n, found.missing, found.method, found.effect) == (-0.05, n, 0, "tango", "gate")


def test_without_a_margin_there_is_an_interval_and_no_claim() -> None:
    found = judge(samples(50, 5, 5, 40), margin=None, confidence=0.95)
    assert (found.verdict, found.bound, found.effect) == (VerdictKind.INCONCLUSIVE, None, None)
    assert found.lower is not None
    assert found.lower < 0


def test_a_margin_of_nothing_asks_whether_a_is_no_worse_at_all() -> None:
    better = judge(samples(50, 60, 5, 40), margin=0.0, confidence=0.95)
    same = judge(samples(50, 5, 5, 40), margin=0.0, confidence=0.95)
    assert (better.verdict, same.verdict) == (VerdictKind.PASS, VerdictKind.INCONCLUSIVE)
    assert str(better.bound) == "0.0"


def test_what_is_missing_counts_against_the_claim_and_too_much_of_it_ends_it() -> None:
    clean = judge(samples(380, 5, 5, 10), margin=0.05, confidence=0.95)
    lost = samples(380, 5, 5, 10)
    lost[:4] = [Sample(id=s.id, messages=ASKED, a=Reply(text=None, error="down"), b=s.b) for s in lost[:4]]
    few = judge(lost, margin=0.05, confidence=0.95)
    lost[:20] = [Sample(id=s.id, messages=ASKED, a=Reply(text=None, error="down"), b=s.b) for s in lost[:20]]
    many = judge(lost, margin=0.05, confidence=0.95)
    assert clean.lower is not None
    assert few.lower is not None
    assert few.lower < clean.lower
    assert (clean.verdict, few.verdict, many.verdict) == (
        VerdictKind.PASS,
        VerdictKind.PASS,
        VerdictKind.INCONCLUSIVE,
    )
    assert (few.missing, many.missing) == (4, 20)
    assert many.because is not None
    assert "20 of 400 cases" in many.because


def test_missing_answers_of_the_baseline_never_help_the_candidate() -> None:
    whole = samples(300, 0, 80, 20)
    lost = [Sample(id=s.id, messages=ASKED, a=s.a, b=Reply(text=None, error="down")) for s in whole]
    assert judge(lost, margin=0.05, confidence=0.95).verdict is VerdictKind.INCONCLUSIVE


def test_cases_that_share_a_source_widen_the_interval() -> None:
    apart = judge(samples(180, 10, 10, 200), margin=0.05, confidence=0.95)
    shared = judge(samples(180, 10, 10, 200, cluster_of=10), margin=0.05, confidence=0.95)
    assert apart.verdict is VerdictKind.PASS
    assert shared.verdict is VerdictKind.INCONCLUSIVE
    assert shared.clusters == 40
