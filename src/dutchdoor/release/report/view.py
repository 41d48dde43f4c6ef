"""All that a report tells, wherever it was read from."""

import datetime
from dataclasses import dataclass

from dutchdoor.evidence.record import Evidence
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.rules import Policy


@dataclass(frozen=True)
class Run:
    """Outcomes, who signed them, and whether that was checked with a key at hand."""

    evidence: Evidence
    key_id: str
    checked: bool


@dataclass(frozen=True)
class View:
    """A decision with everything behind it."""

    family: str
    version: str
    publisher: str
    member: str | None  # whose bundle it is; null: the whole family
    source: str  # what it was read from, in words
    decided_on: datetime.date | None
    decision: Decision
    policies: tuple[Policy, ...]  # none where the source does not hold them
    runs: tuple[Run, ...]
    checks: tuple[tuple[bool | None, str], ...]  # what was checked of the source: holds, does not, can't tell
    commands: tuple[str, ...]  # how a reader does the same
