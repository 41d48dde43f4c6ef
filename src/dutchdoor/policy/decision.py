"""What a decision is: each channel of each member, each component, and every verdict behind it.

Types only; `dutchdoor.policy.decide` makes them. Closed by choice is kept apart from closed by evidence.
"""

from typing import Literal

import msgspec

from dutchdoor.core import Channel, Tier, Verdict

ClosedBy = Literal["choice", "evidence", "inconclusive", "no-rule"]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class PolicyRef(Row, frozen=True, kw_only=True):
    id: str
    digest: str


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
