"""What a decision is: each channel of each member, each component, and every verdict behind it.

Types only; `dutchdoor.policy.decide` makes them. Closed by choice is kept apart from closed by evidence.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from dutchdoor.core import Channel, Tier, Verdict

ClosedBy = Literal["choice", "evidence", "inconclusive", "no-rule"]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class Timing(Row, frozen=True, kw_only=True):
    """Whether a policy was committed to the release log before the evidence that it judges."""

    committed_at: str | None  # RFC 3339, UTC; null: never
    evidence: int  # runs that it judges
    earlier: int  # of them made before it was committed; all of them if it never was

    @property
    def in_time(self) -> bool:
        return self.committed_at is not None and self.earlier == 0

    @property
    def words(self) -> str:
        """One line for a person."""
        if self.committed_at is None:
            return "was never committed to the release log: nothing shows that it was written before its evidence"
        if self.earlier:
            return f"was committed {self.committed_at}, after {self.earlier} of the {self.evidence} runs that it judges"
        return f"was committed {self.committed_at}, before all {self.evidence} runs that it judges"


class PolicyRef(Row, frozen=True, kw_only=True):
    id: str
    digest: str
    timing: Timing | UnsetType = UNSET  # not set: nobody looked into the log


class ChannelDecision(Row, frozen=True, kw_only=True):
    open: bool
    closed_by: ClosedBy | None
    because: str | None = None
    verdicts: tuple[Verdict, ...] = ()


class MemberDecision(Row, frozen=True, kw_only=True):
    tier: Tier
    channels: dict[Channel, ChannelDecision]


class ComponentDecision(Row, frozen=True, kw_only=True):
    member: str | None
    kind: str
    path: str | None = None
    open: bool
    closed_by: ClosedBy | None
    because: str | None
    verdicts: tuple[Verdict, ...] = ()


class Decision(Row, frozen=True, kw_only=True):
    family: str
    version: str
    policies: tuple[PolicyRef, ...]
    members: dict[str, MemberDecision]
    components: tuple[ComponentDecision, ...]
