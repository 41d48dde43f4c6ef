"""What came of vetting: each suite in each setting, measured or not, and why not.

Shown, never judged: the same bounds that rules are judged by, without any rule.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from dutchdoor.evidence.measures import Measure, rate
from dutchdoor.evidence.record import Evidence
from dutchdoor.policy.rules import OVER_REFUSAL, REFUSED_SUITE
from dutchdoor.vetting.plan import Job, Unmeasurable

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


class VetReport(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, and in words what was left out of the store."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()

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


def due(job: Job, evidence: Evidence | None) -> Row:
    """A job that is only planned: with its evidence, or due."""
    found = row(job, evidence, fresh=False, reason=None)
    return found if evidence is not None else msgspec.structs.replace(found, state="due", reason=None)


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


def counted(rows: Sequence[Row]) -> str:
    """`28 measured, 0 reused, 2 unmeasured`."""
    return ", ".join(
        f"{sum(row.state == s for row in rows)} {s}" for s in ("measured", "reused", "unmeasured")
    )
