"""The decision: rules and evidence in, each channel of each member and each component out.

Pure, given the shelf. Fails closed at every step: a channel opens only if it is intended, every policy has a
gating rule for it, and every gating rule passes.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from dutchdoor.core import Channel, DocumentError, Tier, Verdict, VerdictKind
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.manifest import Because, Component, Member
from dutchdoor.family.public import Closed, Closings
from dutchdoor.policy.decision import (
    ChannelDecision,
    ClosedBy,
    ComponentDecision,
    Decision,
    MemberDecision,
    PolicyRef,
)
from dutchdoor.policy.judge import Judge
from dutchdoor.policy.rules import LoadedPolicy, Rule, load_policy
from dutchdoor.policy.shelf import Shelf

# of several reasons the first is named: what is wanted, was found, was never asked, isn't known
ORDER: tuple[ClosedBy, ...] = ("choice", "evidence", "no-rule", "inconclusive")
assert set(ORDER) == set(get_args(ClosedBy))


def load_policies(loaded: LoadedFamily, paths: Sequence[Path] | None = None) -> tuple[LoadedPolicy, ...]:
    """The policies that a manifest names, or those at `paths` instead.

    Raises DocumentError, also for a repeated id.
    """
    named = [loaded.resolve(each) for each in loaded.family.policies] if paths is None else list(paths)
    policies = tuple(load_policy(path) for path in named)
    seen: dict[str, Path] = {}
    for each in policies:
        if each.policy.id in seen:
            raise DocumentError(
                f"{each.path}: its id {each.policy.id!r} is also that of {seen[each.policy.id]}",
                hint="each policy has an id of its own: verdicts name it",
            )
        seen[each.policy.id] = each.path
    return policies


def decide(
    loaded: LoadedFamily, policies: Sequence[LoadedPolicy], shelf: Shelf, today: datetime.date
) -> Decision:
    """Decide every channel and component of a family.

    Measures nothing: without evidence, everything is inconclusive.
    """
    judges = [Judge(loaded, policy, shelf, today) for policy in policies]
    members = {member.name: _member(member, judges, today) for member in loaded.family.members}
    return Decision(
        family=loaded.family.family,
        version=loaded.family.version,
        policies=tuple(PolicyRef(id=each.policy.id, digest=each.digest) for each in policies),
        members=members,
        components=tuple(_components(loaded, judges, members)),
    )


def _member(member: Member, judges: Sequence[Judge], today: datetime.date) -> MemberDecision:
    channels = {channel: _channel(member, channel, judges, today) for channel in Channel}
    if channels[Channel.DOWNLOAD].open:
        tier = Tier.OPEN_WEIGHTS
    else:
        tier = Tier.API if channels[Channel.API].open else Tier.HELD
    return MemberDecision(tier=tier, channels=channels)


def _channel(
    member: Member, channel: Channel, judges: Sequence[Judge], today: datetime.date
) -> ChannelDecision:
    intent = member.intent
    if not (intent.download if channel is Channel.DOWNLOAD else intent.api):
        return ChannelDecision(open=False, closed_by="choice", because=_words(intent.because))
    verdicts: list[Verdict] = []
    lacking: list[str] = []  # policies without a gating rule for the channel
    for judge in judges:
        found = _rules(judge, channel, member)
        verdicts += found
        if not any(each.effect == "gate" for each in found):
            lacking.append(judge.policy.policy.id)
    closed_by, because = _closed(verdicts, lacking, bool(judges))
    if channel is Channel.DOWNLOAD and intent.download_after is not None and today < intent.download_after:
        closed_by, because = "choice", f"not before {intent.download_after}"
    return ChannelDecision(
        open=closed_by is None, closed_by=closed_by, because=because, verdicts=tuple(verdicts)
    )


def _rules(judge: Judge, channel: Channel, member: Member) -> list[Verdict]:
    found: list[Verdict] = []
    for rule in judge.policy.policy.rules:
        if rule.gates == channel.value:
            found += judge.channel(rule, member, channel)
    return found


def _closed(
    verdicts: Sequence[Verdict], lacking: Sequence[str], any_policy: bool
) -> tuple[ClosedBy | None, str | None]:
    """What closes an intended channel, and in words; nulls when nothing does."""
    gating = [each for each in verdicts if each.effect == "gate"]
    if failed := [each for each in gating if each.verdict is VerdictKind.FAIL]:
        return "evidence", "fails " + _named(failed)
    if not any_policy:  # no policy must never open anything
        return "no-rule", "the family names no policy"
    if lacking:
        return "no-rule", "no rule gates it in " + ", ".join(lacking)
    if unknown := [each for each in gating if each.verdict is not VerdictKind.PASS]:
        return "inconclusive", "can't tell " + _named(unknown)
    return None, None


def _named(verdicts: Sequence[Verdict]) -> str:
    return ", ".join(dict.fromkeys(f"{each.rule} ({each.measure})" for each in verdicts))


def _words(because: Because | None) -> str:
    return "the publisher doesn't intend it" if because is None else f"{because.kind}: {because.text}"


def _components(
    loaded: LoadedFamily, judges: Sequence[Judge], members: dict[str, MemberDecision]
) -> list[ComponentDecision]:
    downloads = {name: each.channels[Channel.DOWNLOAD] for name, each in members.items()}
    found = [_component(None, each, judges, list(downloads.values())) for each in loaded.family.components]
    for member in loaded.family.members:
        own = [*member.components, *_served_files(loaded, member)]
        found += [_component(member.name, each, judges, [downloads[member.name]]) for each in own]
    return found


def _served_files(loaded: LoadedFamily, member: Member) -> list[Component]:
    """What the API needs and nobody listed.

    Closed, because what guards a model should not be given away by accident.
    """
    listed = {
        loaded.resolve(each.path).resolve()
        for each in (*loaded.family.components, *member.components)
        if each.path is not None
    }
    reason = Because(
        kind="security", text="part of how the API serves the member; list it as a component to open it"
    )
    kinds = (("system-prompt", member.serve.system_prompt), ("safety-tooling", member.serve.guard))
    return [
        Component(kind=kind, path=path, intent="closed", because=reason)  # type: ignore[arg-type]  # both are kinds
        for kind, path in kinds
        if path is not None and loaded.resolve(path).resolve() not in listed
    ]


def _component(
    member: str | None, component: Component, judges: Sequence[Judge], downloads: Sequence[ChannelDecision]
) -> ComponentDecision:
    """A component leaves if that is intended, no rule closes it, and the download it belongs to is open."""
    reasons: dict[ClosedBy, str] = {}
    if component.intent == "closed":
        reasons["choice"] = _words(component.because)
    verdicts = [
        judge.component(rule, member, component)
        for judge in judges
        for rule in judge.policy.policy.rules
        if _applies(rule, component)
    ]
    gating = [each for each in verdicts if each.effect == "gate"]
    for kind, closed_by in ((VerdictKind.FAIL, "evidence"), (VerdictKind.INCONCLUSIVE, "inconclusive")):
        if hit := [each for each in gating if each.verdict is kind]:
            reasons[closed_by] = "; ".join(f"{each.rule}: {each.because}" for each in hit)  # type: ignore[index]
    if not any(each.open for each in downloads):
        whose = "no member's download is open" if member is None else f"the download of {member} is closed"
        first = min((each.closed_by for each in downloads if each.closed_by), key=ORDER.index)
        reasons.setdefault(first, whose)
    closed_by = next((each for each in ORDER if each in reasons), None)  # type: ignore[assignment]
    return ComponentDecision(
        member=member,
        kind=component.kind,
        path=component.path,
        open=not reasons,
        closed_by=closed_by,  # type: ignore[arg-type]
        because=None if not reasons else reasons[closed_by],  # type: ignore[index]
        verdicts=tuple(verdicts),
    )


def _applies(rule: Rule, component: Component) -> bool:
    return rule.gates == "component" and (not rule.kinds or component.kind in rule.kinds)


def unmet(decision: Decision, required: dict[str, Tier]) -> list[str]:
    """In words, each member whose tier is not the one required."""
    return [
        f"{name} is {decision.members[name].tier}, {tier} is required"
        for name, tier in required.items()
        if decision.members[name].tier is not tier
    ]


def unsettled(decision: Decision) -> list[tuple[str, Channel]]:
    """The intended channels that are inconclusive or have no rule: why `decide` ends with exit code 3."""
    return [
        (name, channel)
        for name, member in decision.members.items()
        for channel, held in member.channels.items()
        if held.closed_by in ("inconclusive", "no-rule")
    ]


def closings(decision: Decision) -> Closings:
    """What a decision closes, in the form that `dutchdoor.family.public.public_form` takes."""
    downloads = {name: each.channels[Channel.DOWNLOAD] for name, each in decision.members.items()}
    return Closings(
        downloads={
            name: Closed(str(each.closed_by), each.because)
            for name, each in downloads.items()
            if not each.open
        },
        components={
            (each.member, each.kind, each.path): Closed(str(each.closed_by), each.because)
            for each in decision.components
            if not each.open
        },
    )
