"""What is shown while a run goes on is what its end will say, were that the end."""

import random
from pathlib import Path

import pytest

from dutchdoor import stats
from dutchdoor.core import ThreatModel
from dutchdoor.evidence.measures import rate
from dutchdoor.evidence.record import Outcome, Rung
from dutchdoor.policy.rules import LoadedPolicy, load_policy
from dutchdoor.vetting.pace import Pace, cost
from dutchdoor.vetting.plan import Job, Setting
from dutchdoor.vetting.report import verdict_so_far
from dutchdoor.vetting.tally import MOST_REASONS, Tally
from tests.fakes.families import POLICY, write_family


def outcomes(n: int, clusters: int, seed: int) -> list[Outcome]:
    draw = random.Random(seed)
    scores = draw.choices([True, False, None], [10, 80, 5], k=n)
    return [
        Outcome(
            id=str(i),
            correct=score,
            refused=None if score is None else not score,
            cluster=str(draw.randrange(clusters)) if clusters else None,
            error="EngineError: gone" if score is None else None,
        )
        for i, score in enumerate(scores)
    ]


def counted(rows: list[Outcome]) -> Tally:
    tally = Tally(len(rows))
    for each in rows:
        tally.count(each)
    return tally


@pytest.mark.parametrize("clusters", [0, 7, 60])
@pytest.mark.parametrize("what", ["correct", "refused"])
def test_the_interval_so_far_is_the_one_that_rules_are_judged_by(clusters: int, what: str) -> None:
    rows = outcomes(300, clusters, seed=clusters)
    found = counted(rows).so_far(what, 0.9)
    judged = rate(rows, what, confidence=0.9)  # type: ignore[arg-type]
    assert found.value == pytest.approx(judged.value)
    assert (found.lower, found.upper) == pytest.approx((judged.lower, judged.upper), abs=1e-12)


def test_before_anything_is_done_nothing_is_known() -> None:
    found = Tally(10).so_far("correct")
    assert (found.value, found.lower, found.upper) == (None, 0.0, 1.0)


def test_different_reasons_do_not_pile_up() -> None:
    rows = [Outcome(id=str(i), correct=None, refused=None, error=f"reason {i}") for i in range(500)]
    tally = counted(rows)
    assert len(tally.reasons) == MOST_REASONS + 1
    assert sum(tally.reasons.values()) == tally.missing == 500


@pytest.fixture
def policy(tmp_path: Path) -> LoadedPolicy:
    write_family(tmp_path, policy=POLICY)
    return load_policy(tmp_path / "policy.yaml")


def job(suite: str, threat: ThreatModel = ThreatModel.GUARDED, rung: Rung | None = None) -> Job:
    setting = Setting(member="large", variant="f32", threat=threat, rung=rung)
    return Job(setting=setting, suite=suite, suite_digest="sha256:0", suite_path="x")


@pytest.mark.parametrize(("bad", "said"), [(0, "pass"), (8, "open"), (30, "fail")])
def test_a_suite_under_an_absolute_rule_shows_where_it_stands(
    policy: LoadedPolicy, bad: int, said: str
) -> None:
    rows = [Outcome(id=str(i), correct=i < bad, refused=False) for i in range(150)]
    text = verdict_so_far(job("hazard.potions"), counted(rows), [policy])
    assert text.endswith(f"at most 5.0%: {said} so far")
    assert f"{bad / 150:.1%} ({stats.clopper_pearson_lower(bad, 150):.1%} to " in text


def test_a_suite_whose_rule_compares_two_models_shows_its_interval_only(policy: LoadedPolicy) -> None:
    rung = Rung(attack="lora", steps=10, examples=4, seed=0, attack_set="x")
    attacked = job("hazard.potions", ThreatModel.TAMPERED, rung)
    rows = [Outcome(id=str(i), correct=False, refused=False) for i in range(150)]
    assert "so far" not in verdict_so_far(attacked, counted(rows), [policy])


def test_a_plan_knows_how_long_what_was_measured_before_will_take(tmp_path: Path) -> None:
    known, unknown = job("skill.sums"), job("skill.sums")
    rung = Rung(attack="lora", steps=10, examples=4, seed=0, attack_set="x")
    attacked = job("skill.sums", ThreatModel.TAMPERED, rung)
    pace = Pace(tmp_path)
    assert cost([unknown], {"sha256:0": 100}, pace).seconds is None
    pace.attack(attacked.setting, 2.0)
    pace.cases(known.setting, 0.5)
    again = Pace(tmp_path)
    assert cost([known], {"sha256:0": 100}, again).seconds == 50
    found = cost([known, attacked], {"sha256:0": 100}, again)
    assert found.seconds == 50 + 50 + 20
    assert (found.cases, found.attacks, found.settings_without_forecast) == (200, 1, 0)


def test_a_broken_forecast_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "pace.json").write_text("{")
    assert Pace(tmp_path).forecast(job("skill.sums").setting, 10) is None
