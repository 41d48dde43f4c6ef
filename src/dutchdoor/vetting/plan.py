"""What has to be measured, so that the policies can be judged: nothing more, nothing less.

The plan is not a second reading of the rules: `dutchdoor.policy.decide` itself is asked to decide with a
shelf that notes every question and has no answer. So what is measured is what is asked.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dutchdoor.core import ThreatModel, VerdictKind
from dutchdoor.evidence.record import Evidence, Rung
from dutchdoor.evidence.shelf import StoredShelf
from dutchdoor.evidence.subjects import Subjects
from dutchdoor.family.load import LoadedFamily
from dutchdoor.policy.decide import decide
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.rules import REFUSED_SUITE, LoadedPolicy, suite_of


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class Setting(Row, frozen=True, kw_only=True):
    """One model under one threat: what is set up once for all its suites."""

    member: str  # or a reference
    variant: str
    threat: ThreatModel
    rung: Rung | None = None

    @property
    def label(self) -> str:
        """As a person reads it: `gable-l/bf16 tampered lora:100:0`."""
        words = [f"{self.member}/{self.variant}", self.threat.value]
        return " ".join([*words, self.rung.label] if self.rung else words)


class Job(Row, frozen=True, kw_only=True):
    """One suite in one setting."""

    setting: Setting
    suite: str
    suite_digest: str
    suite_path: str


class Unmeasurable(Row, frozen=True, kw_only=True):
    """What a rule would need and nobody can measure here, with the reason."""

    member: str
    variant: str
    threat: ThreatModel
    rung: str | None
    suite: str
    reason: str


class _Notebook:
    """A shelf that notes what it is asked; it answers only if it is told to."""

    def __init__(self, behind: StoredShelf | None, *, answers: bool) -> None:
        self.behind, self.answers = behind, answers
        self.asked: dict[tuple[str, str, str, str, ThreatModel, Rung | None], None] = {}

    def find(
        self, member: str, variant: str, suite: str, suite_digest: str, threat: ThreatModel, rung: Rung | None
    ) -> Evidence | None:
        self.asked[member, variant, suite, suite_digest, threat, rung] = None
        if self.behind is None or not self.answers:
            return None
        return self.behind.find(member, variant, suite, suite_digest, threat, rung)

    def attested(self, member: str, variant: str, key: Path) -> Evidence | None:
        return None if self.behind is None else self.behind.attested(member, variant, key)

    def why_missing(self, member: str, variant: str) -> str | None:
        return None if self.behind is None else self.behind.why_missing(member, variant)


def plan(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    *,
    today: datetime.date | None = None,
    members: Sequence[str] = (),
    threats: Sequence[ThreatModel] = (),
    shelf: StoredShelf | None = None,
) -> list[Job]:
    """Every suite in every setting that the policies ask for; references stay whichever `members` are named.

    With a `shelf`, what only becomes a question once other evidence is there is found too.
    """
    asked, _ = ask_rules(loaded, policies, today=today, shelf=shelf)
    return [
        job
        for job in asked
        if (not members or job.setting.member in members or job.setting.member in loaded.family.references)
        and (not threats or job.setting.threat in threats)
    ]


def ask_rules(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    *,
    today: datetime.date | None = None,
    shelf: StoredShelf | None = None,
) -> tuple[list[Job], list[Unmeasurable]]:
    """All that the rules ask for, and what they would need and say themselves that nobody can measure."""
    day = today or datetime.datetime.now(datetime.UTC).date()
    blank, filled = _Notebook(shelf, answers=False), _Notebook(shelf, answers=True)
    decision = decide(loaded, policies, blank, day)
    if shelf is not None:
        decide(loaded, policies, filled, day)
    jobs = [
        Job(
            setting=Setting(member=member, variant=variant, threat=threat, rung=rung),
            suite=suite,
            suite_digest=digest,
            suite_path=str(_suite_path(policies, suite, digest)),
        )
        for member, variant, suite, digest, threat, rung in {**blank.asked, **filled.asked}
    ]
    return jobs, _unmeasurable(decision, policies, jobs)


def _unmeasurable(
    decision: Decision, policies: Sequence[LoadedPolicy], jobs: Sequence[Job]
) -> list[Unmeasurable]:
    """The inconclusive gating verdicts for which nothing was asked: their reason is why."""
    suites = {name for policy in policies for name in policy.policy.suites}
    asked = {(job.setting.member, job.setting.variant, job.suite, _label(job.setting.rung)) for job in jobs}
    found: dict[tuple[str | None, ...], Unmeasurable] = {}
    for member in decision.members.values():
        for verdict in (verdict for channel in member.channels.values() for verdict in channel.verdicts):
            suite = suite_of(verdict.measure)[0]
            key = (verdict.member, verdict.variant, suite, verdict.rung)
            if verdict.verdict is not VerdictKind.INCONCLUSIVE or verdict.effect != "gate":
                continue
            if suite not in suites or key in asked:
                continue
            if verdict.member is not None and verdict.variant is not None:
                found[key] = Unmeasurable(
                    member=verdict.member,
                    variant=verdict.variant,
                    threat=ThreatModel(verdict.threat or ThreatModel.TAMPERED),
                    rung=verdict.rung,
                    suite=suite,
                    reason=verdict.because or "nothing can be measured",
                )
    return list(found.values())


def _label(rung: Rung | None) -> str | None:
    return None if rung is None else rung.label


def settle(jobs: Sequence[Job], subjects: Subjects) -> list[Job]:
    """The jobs in order, none of which measures the same as another.

    Served plainly, `guarded` is weights in hand.
    """
    plain = (msgspec.structs.replace(job, setting=_plain(job.setting, subjects)) for job in jobs)
    names = [*subjects.members, *subjects.loaded.family.references]
    threats = list(ThreatModel)

    def place(job: Job) -> tuple[int, str, int, str, str]:
        at = job.setting
        rung = "" if at.rung is None else at.rung.label
        return names.index(at.member), at.variant, threats.index(at.threat), rung, job.suite

    return sorted(dict.fromkeys(plain), key=place)


def _plain(setting: Setting, subjects: Subjects) -> Setting:
    same = (
        setting.rung is None
        and setting.threat is ThreatModel.TAMPERED
        and not subjects.served_elsewhere(setting.member)
        and subjects.served_plainly(setting.member)
        and subjects.served_variant(setting.member) in (setting.variant, None)
    )
    return msgspec.structs.replace(setting, threat=ThreatModel.GUARDED) if same else setting


def attack_set_paths(policies: Sequence[LoadedPolicy], rung: Rung) -> tuple[Path, Path]:
    """The training set of an attack, by its digest, and the held-out refused prompts beside it. Raises KeyError when
    no policy names it.
    """
    for each in policies:
        tampered = each.policy.threats.tampered
        if tampered is not None and each.digests["attack_set"] == rung.attack_set:
            return each.folder / tampered.attack_set, each.suite_path(REFUSED_SUITE)
    raise KeyError(rung.attack_set)


def _suite_path(policies: Sequence[LoadedPolicy], suite: str, digest: str) -> Path:
    for each in policies:
        if each.digests.get(suite) == digest and (suite == REFUSED_SUITE or suite in each.policy.suites):
            return each.suite_path(suite)
    raise KeyError(suite)
