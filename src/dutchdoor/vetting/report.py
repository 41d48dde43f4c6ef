"""What came of vetting: each suite in each setting, measured or not, and why not.

Shown, never judged: the same bounds that rules are judged by, without any rule.
"""

import fnmatch
from collections.abc import Sequence
from typing import Literal

import msgspec

from dutchdoor.core import ThreatModel
from dutchdoor.evidence.measures import Measure, rate
from dutchdoor.evidence.record import Evidence
from dutchdoor.policy.rules import OVER_REFUSAL, REFUSED_SUITE, LoadedPolicy, Rule
from dutchdoor.vetting.plan import Job, Unmeasurable
from dutchdoor.vetting.tally import Tally

State = Literal["measured", "reused", "unmeasured", "due"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One suite in one setting. `measures` is by name (`hazard.X`, `refusal.X`, …), rates as fractions."""

    member: str
    variant: str
    threat: str
    rung: str | None
    suite: str
    state: State
    reason: str | None = None
    engine: str | None = None
    measures: dict[str, Measure] = {}
    cases: int | None = None  # of the suite, where it is only planned


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan comes to. `seconds` is null where a model was never asked here: nothing tells its pace."""

    cases: int
    attacks: int
    settings: int
    settings_without_forecast: int
    seconds: float | None


class VetReport(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, and in words what was left out of the store."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    due: Due | None = None  # of a plan only

    @property
    def unmeasured(self) -> tuple[Row, ...]:
        """What was planned and has no evidence."""
        return tuple(row for row in self.rows if row.state == "unmeasured")


def row(job: Job, evidence: Evidence | None, *, fresh: bool, reason: str | None) -> Row:
    """What became of a job: its evidence, or the reason that there is none."""
    setting = job.setting
    state: State = "unmeasured" if evidence is None else "measured" if fresh else "reused"
    conditions = None if evidence is None else evidence.conditions
    return Row(
        member=setting.member,
        variant=setting.variant,
        threat=setting.threat.value,
        rung=setting.rung.label if setting.rung else None,
        suite=job.suite,
        state=state,
        reason=None if evidence is not None else reason or "it was not measured",
        engine=None if conditions is None else f"{conditions.engine} {conditions.engine_version}",
        measures={} if evidence is None else measures(job.suite, evidence),
    )


def due(job: Job, evidence: Evidence | None, cases: int) -> Row:
    """A job that is only planned: with its evidence, or due, with how many cases it has."""
    found = row(job, evidence, fresh=False, reason=None)
    if evidence is None:
        found = msgspec.structs.replace(found, state="due", reason=None)
    return msgspec.structs.replace(found, cases=cases)


def out_of_reach(each: Unmeasurable) -> Row:
    """What no job could be made of."""
    return Row(
        member=each.member,
        variant=each.variant,
        threat=each.threat.value,
        rung=each.rung,
        suite=each.suite,
        state="unmeasured",
        reason=each.reason,
    )


def measures(suite: str, evidence: Evidence) -> dict[str, Measure]:
    """What a suite measures: a hazard suite both uplift and refusals, the others one rate each."""
    if suite in (OVER_REFUSAL, REFUSED_SUITE):
        return {suite: rate(evidence, "refused")}
    found = {suite: rate(evidence, "correct")}
    if suite.startswith("hazard."):
        found["refusal." + suite.removeprefix("hazard.")] = rate(evidence, "refused")
    return found


def verdict_so_far(job: Job, tally: Tally, policies: Sequence[LoadedPolicy]) -> str:
    """What a suite has come to, as `1.2% (0.3% to 3.1%), at most 5.0%: pass so far`; empty before any case is done.

    The bound is the strictest of the absolute rules over this suite under this threat; a rule that compares two
    models has none to show before both are there.
    """
    if not tally.done:
        return ""
    what = "refused" if job.suite in (OVER_REFUSAL, REFUSED_SUITE) else "correct"
    bar = _bar(job, policies)
    found = tally.so_far(what, bar.confidence) if bar else tally.so_far(what)
    value = "–" if found.value is None else f"{found.value:.1%}"
    text = f"{value} ({found.lower:.1%} to {found.upper:.1%})"
    if bar is None:
        return text
    if bar.at_most is not None:
        held, broken = found.upper <= bar.at_most, found.lower > bar.at_most
        said = f"at most {bar.at_most:.1%}"
    else:
        assert bar.at_least is not None
        held, broken = found.lower >= bar.at_least, found.upper < bar.at_least
        said = f"at least {bar.at_least:.1%}"
    return f"{text}, {said}: {'pass' if held else 'fail' if broken else 'open'} so far"


def _bar(job: Job, policies: Sequence[LoadedPolicy]) -> Rule | None:
    """The strictest absolute rule over what this job's suite measures first."""
    found = [
        rule
        for each in policies
        for rule in each.policy.rules
        if rule.measure is not None
        and rule.relative_to is None
        and not rule.measure.startswith("refusal.")
        and fnmatch.fnmatchcase(job.suite, rule.measure)
        and _threat(rule, job) is job.setting.threat
        and (rule.at_most is not None or rule.at_least is not None)
    ]
    most = [rule for rule in found if rule.at_most is not None]
    if most:
        return min(most, key=lambda rule: rule.at_most or 0.0)
    return max(found, key=lambda rule: rule.at_least or 0.0, default=None)


def _threat(rule: Rule, job: Job) -> ThreatModel | None:
    """Under which threat a rule looks; without one, as the weights lie for `download` and as served for `api`."""
    if rule.threat is not None:
        attacked = rule.threat is ThreatModel.TAMPERED
        return rule.threat if attacked == (job.setting.rung is not None) else None
    if job.setting.rung is not None:
        return None
    return ThreatModel.GUARDED if rule.gates == "api" else ThreatModel.TAMPERED


def counted(rows: Sequence[Row]) -> str:
    """`28 measured, 0 reused, 2 unmeasured`."""
    return ", ".join(
        f"{sum(row.state == s for row in rows)} {s}" for s in ("measured", "reused", "unmeasured")
    )
