"""Does the signed decision follow from what the dossier holds? Replays statistics and policy, offline.

By the same code as `dutchdoor decide`. Two questions apart: what followed on the day of the decision, and what
would follow today. What the dossier does not tell can't be replayed and is said so. Measures nothing: that the
outcomes are true `verify --rerun` samples.
"""

import datetime
import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import UNSET

from dutchdoor import __version__
from dutchdoor.bundle.dossier import Dossier
from dutchdoor.bundle.gather import published
from dutchdoor.bundle.layout import MANIFEST, shown
from dutchdoor.bundle.verify import Manifest, Report, read_small
from dutchdoor.core import BundleError, Channel, DutchdoorError, Exit, Verdict, VerdictKind, digest_bytes
from dutchdoor.evidence.release_log import Logged, parse
from dutchdoor.evidence.signing_keys import PublicKey
from dutchdoor.evidence.store import Stored
from dutchdoor.family.weights import describe
from dutchdoor.policy.decision import ComponentDecision, Decision
from dutchdoor.policy.grounds import Grounds
from dutchdoor.policy.judge import NOT_TOLD
from dutchdoor.policy.replay import Replay, replayed
from dutchdoor.policy.rules import PARAMETERS
from dutchdoor.policy.timing import with_timing

SLACK = datetime.timedelta(days=1)  # between deciding and sealing, which one run of `pack` does
SAME = 1e-9  # relative; the last digits of a bound depend on the machine


class Outcome(StrEnum):
    SAME = "same"
    DIFFERS = "differs"
    CANNOT_TELL = "cannot-tell"


CODES = {Outcome.SAME: Exit.CLEAN, Outcome.CANNOT_TELL: Exit.INCONCLUSIVE, Outcome.DIFFERS: Exit.AGAINST}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was signed and does not follow: where, and what, in words."""

    where: str
    what: str


class Recomputation(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of a replay."""

    verdict: Outcome
    decided_on: datetime.date | None
    as_of: datetime.date
    verdicts: int = 0  # rules' verdicts that were replayed
    outcomes: int = 0  # cases that they rest on
    differences: tuple[Difference, ...] = ()  # on the day of the decision
    today: tuple[Difference, ...] = ()  # what no longer holds on `as_of`
    untold: tuple[Difference, ...] = ()  # can't be replayed
    notes: tuple[str, ...] = ()


def recompute(
    report: Report, as_of: datetime.date, trusted: Sequence[PublicKey] = (), known: Sequence[PublicKey] = ()
) -> Recomputation:
    """Replay the decision in a bundle that was verified.

    `known` keys (the bundle's own) check lines of the release log. Never raises for what a dossier holds.
    """
    dossier = report.dossier
    if dossier is None:
        return _cannot(as_of, "its dossier does not hold, so there is nothing to replay")
    if dossier.grounds is UNSET:
        return _cannot(
            as_of, "it was packed without what a replay needs (policy, facts): ask for a newer one"
        )
    try:
        return _recompute(report, dossier, dossier.grounds, as_of, (*trusted, *known))
    except (DutchdoorError, ValueError, KeyError, RecursionError) as error:
        return _cannot(as_of, f"its record can't be replayed: {error}")


def _cannot(as_of: datetime.date, why: str) -> Recomputation:
    untold = (Difference(where="dossier", what=why),)
    return Recomputation(verdict=Outcome.CANNOT_TELL, decided_on=None, as_of=as_of, untold=untold)


def _recompute(
    report: Report, dossier: Dossier, grounds: Grounds, as_of: datetime.date, keys: Sequence[PublicKey]
) -> Recomputation:
    stored = [Stored(evidence=each.evidence, key_id=each.keyid) for each in dossier.evidence]
    replay = replayed(grounds, stored)
    again = _again(dossier, grounds, replay, grounds.decided_on, keys)
    differences, untold = _compared(dossier.decision, again)
    differences = [*_faults(report.folder, dossier, grounds, replay, keys), *differences]
    today = list(_stale(again, _again(dossier, grounds, replay, as_of, keys)))
    gone = any(each.gates for each in today)
    found = Outcome.DIFFERS if differences or gone else Outcome.CANNOT_TELL if untold else Outcome.SAME
    return Recomputation(
        verdict=found,
        decided_on=grounds.decided_on,
        as_of=as_of,
        verdicts=len(_verdicts(dossier.decision)),
        outcomes=sum(len(each.evidence.outcomes) for each in stored),
        differences=tuple(dict.fromkeys(differences)),
        today=tuple(each.difference for each in today),
        untold=tuple(dict.fromkeys(untold)),
        notes=tuple(_notes(report, dossier, bool(differences))),
    )


def _again(
    dossier: Dossier, grounds: Grounds, replay: Replay, day: datetime.date, keys: Sequence[PublicKey]
) -> Decision:
    decision = published(replay.loaded, replay.decide(day))
    if any(ref.timing is not UNSET for ref in dossier.decision.policies):
        evidence = [each.evidence for each in dossier.evidence]
        decision = with_timing(
            decision, [each.digests for each in grounds.policies], evidence, _entries(grounds, keys)
        )
    return decision


def _entries(grounds: Grounds, keys: Sequence[PublicKey]) -> list[Logged]:
    """The release log's lines in the dossier. Raises EvidenceError for one whose signature does not hold."""
    return [parse(line.encode(), keys) for line in grounds.log]


# --- the decision ---------------------------------------------------------------------------------------------------

Place = tuple[str | None, ...]


def _verdicts(decision: Decision) -> dict[Place, Verdict]:
    """Every verdict under the place that it has: member, channel, rule, measure, variant, rung."""
    found: dict[Place, Verdict] = {}
    rows = [
        (name, channel.value, verdict)
        for name, member in decision.members.items()
        for channel, held in member.channels.items()
        for verdict in held.verdicts
    ]
    rows += [
        (each.member or "the family", f"component {each.kind} {index}", verdict)
        for index, each in enumerate(decision.components)
        for verdict in each.verdicts
    ]
    for member, channel, v in rows:
        place: Place = (member, channel, v.policy, v.rule, v.measure, v.variant, v.threat, v.rung)
        while place in found:
            place = (*place, "again")
        found[place] = v
    return found


def _named(place: Place) -> str:
    member, channel, policy, rule, measure, *rest = place
    return f"{member}, {channel}: {policy}/{rule} ({', '.join(each for each in (measure, *rest) if each)})"


def _compared(signed: Decision, again: Decision) -> tuple[list[Difference], list[Difference]]:
    """What was signed and does not follow, and what can't be replayed."""
    held, follows = _verdicts(signed), _verdicts(again)
    differences, untold = [], []
    open_ended: set[str | None] = set()
    for place in dict.fromkeys([*held, *follows]):
        one, other = held.get(place), follows.get(place)
        where = _named(place)
        if other is None:
            differences.append(Difference(where=where, what="signed, but no rule of the policies gives it"))
        elif one is None:
            differences.append(Difference(where=where, what="follows from the policies, but was not signed"))
        elif (other.because or "").startswith(NOT_TOLD) and one.verdict is not VerdictKind.INCONCLUSIVE:
            untold.append(Difference(where=where, what=other.because or NOT_TOLD))
            if one.effect != "warn":
                open_ended.add(place[0])
        elif changes := list(_changed(one, other)):
            differences.append(Difference(where=where, what="; ".join(changes)))
    differences += _outcomes(signed, again, open_ended)
    return differences, untold


def _changed(signed: Verdict, again: Verdict) -> Iterator[str]:
    if signed.verdict is not again.verdict:
        why = f" ({again.because})" if again.because and again.because != signed.because else ""
        yield f"signed {signed.verdict}, but {again.verdict} follows{why}"
    for name in (
        "value",
        "lower",
        "upper",
        "bound",
        "confidence",
        "n",
        "missing",
        "clusters",
        "method",
        "effect",
    ):
        one, other = getattr(signed, name), getattr(again, name)
        if name in _COUNTED and signed.measure == PARAMETERS and None in (one, other):
            continue  # whether a count may be told hangs on the channel, which is compared by itself
        if not _alike(one, other):
            what = "the policy says" if name in ("bound", "effect") else "the outcomes give"
            yield f"{name}: signed {_shown(one)}, {what} {_shown(other)}"


def _alike(one: object, other: object) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME)
    return one == other


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _outcomes(signed: Decision, again: Decision, open_ended: set[str | None]) -> Iterator[Difference]:
    """Channels, tiers, components and the policies' timing; not where a verdict can't be replayed."""
    for name in dict.fromkeys([*signed.members, *again.members]):
        if name in open_ended:
            continue
        one, other = signed.members.get(name), again.members.get(name)
        if one is None or other is None:
            yield Difference(where=shown(name), what="is not a member on both sides")
            continue
        for channel in Channel:
            a, b = one.channels.get(channel), other.channels.get(channel)
            if a is None or b is None or (a.open, a.closed_by) != (b.open, b.closed_by):
                says = [_state(each) if each else "not decided" for each in (a, b)]
                yield Difference(where=f"{name}, {channel}", what=f"signed {says[0]}, but {says[1]} follows")
        if one.tier is not other.tier:
            yield Difference(where=name, what=f"signed as {one.tier}, but {other.tier} follows")
    if not open_ended:
        yield from _components(signed.components, again.components)
    for ref, follows in zip(signed.policies, again.policies, strict=False):
        if (ref.id, ref.digest) != (follows.id, follows.digest):
            yield Difference(
                where=f"policy {shown(ref.id)}",
                what=f"its text is {follows.digest}, decided by was {ref.digest}",
            )
        elif ref.timing != follows.timing and follows.timing is not UNSET:
            yield Difference(
                where=f"policy {shown(ref.id)}",
                what=f"of its time was signed otherwise: it {follows.timing.words}",
            )
    if len(signed.policies) != len(again.policies):
        yield Difference(where="policies", what="not as many are in the dossier as it was decided by")


def _components(
    signed: Sequence[ComponentDecision], again: Sequence[ComponentDecision]
) -> Iterator[Difference]:
    rows = [[(c.member, c.kind, c.path, c.open, c.closed_by) for c in each] for each in (signed, again)]
    for one, other in zip(*rows, strict=False):
        if one != other:
            says = ["open" if row[3] else f"closed by {row[4]}" for row in (one, other)]
            yield Difference(
                where=f"component {one[1]} of {one[0] or 'the family'}",
                what=f"signed {says[0]}, but {other[1]} {says[1]} follows",
            )
    if len(rows[0]) != len(rows[1]):
        yield Difference(where="components", what=f"{len(rows[0])} were signed, {len(rows[1])} follow")


_COUNTED = ("value", "lower", "upper")


class _Aged(msgspec.Struct, frozen=True):
    difference: Difference
    gates: bool  # whether a channel that was open would not be


def _state(held: object) -> str:
    is_open, by = getattr(held, "open", False), getattr(held, "closed_by", None)
    return "open" if is_open else f"closed by {by}"


def _stale(then: Decision, now: Decision) -> Iterator[_Aged]:
    """What follows today and did not on the day of the decision; only the date can have changed."""
    before, after = _verdicts(then), _verdicts(now)
    for place, verdict in after.items():
        if place in before and verdict.verdict is not before[place].verdict:
            what = f"{before[place].verdict} when it was decided, {verdict.verdict} now"
            why = f": {verdict.because}" if verdict.because else ""
            worse = verdict.verdict is not VerdictKind.PASS and verdict.effect == "gate"
            yield _Aged(Difference(where=_named(place), what=what + why), worse)
    for name, member in now.members.items():
        for channel, held in member.channels.items():
            was = then.members[name].channels[channel]
            if held.open != was.open:
                what = f"{_state(was)} when it was decided, {_state(held)} now"
                yield _Aged(Difference(where=f"{name}, {channel}", what=what), was.open)


# --- what it rests on -----------------------------------------------------------------------------------------------


def _faults(
    folder: Path, dossier: Dossier, grounds: Grounds, replay: Replay, keys: Sequence[PublicKey]
) -> Iterator[Difference]:
    """Where the record contradicts the rest of the bundle."""
    sealed = datetime.datetime.fromisoformat(dossier.made_at).date()
    if not datetime.timedelta(0) <= sealed - grounds.decided_on <= SLACK:
        what = f"says {grounds.decided_on}, but the dossier was made on {sealed}"
        yield Difference(where="day of the decision", what=what)
    if grounds.family.family != dossier.family or grounds.family.version != dossier.version:
        yield Difference(where="family", what="the record is of another family or version")
    for told, ref in zip(grounds.policies, dossier.decision.policies, strict=False):
        if digest_bytes(told.text.encode()) != ref.digest:
            yield Difference(
                where=f"policy {shown(ref.id)}", what="its text is not the one it was decided by"
            )
    for line in _entries(grounds, keys):
        if not line.verified:
            yield Difference(
                where="release log", what=f"a line is signed by {line.key_id}, whose key is not here"
            )
    yield from _suites(dossier, grounds)
    yield from _manifest(folder, grounds)
    yield from _weights(folder, dossier, grounds)
    for each in dossier.evidence:
        if each.evidence.made_at > dossier.made_at:
            subject = each.evidence.subject.member
            yield Difference(
                where=f"evidence of {shown(subject)}", what="is dated after the dossier was made"
            )


def _suites(dossier: Dossier, grounds: Grounds) -> Iterator[Difference]:
    for policy in grounds.policies:
        for held in dossier.evidence:
            suite, digest = held.evidence.conditions.suite, held.evidence.conditions.suite_digest
            if suite in policy.digests and digest not in [p.digests.get(suite) for p in grounds.policies]:
                yield Difference(
                    where=f"suite {shown(suite)}",
                    what=f"the policy {shown(policy.id)} is about {policy.digests[suite]},"
                    f" the outcomes of {shown(held.evidence.subject.member)} about {digest}",
                )


def _manifest(folder: Path, grounds: Grounds) -> Iterator[Difference]:
    """Intents, licences and commitments are those of the public manifest."""
    try:
        manifest = msgspec.json.decode(read_small(folder / MANIFEST), type=Manifest)
    except (BundleError, msgspec.MsgspecError, RecursionError):
        return  # `verify` has said so
    members = {each.name: each for each in manifest.members}
    if set(members) != {each.name for each in grounds.family.members}:
        yield Difference(where="members", what="the record has others than the manifest")
    for member in grounds.family.members:
        told = members.get(member.name)
        if told is None:
            continue
        after = member.intent.download_after
        intent = (member.intent.download, member.intent.api, after and after.isoformat())
        if intent != (told.intent.download, told.intent.api, told.intent.download_after):
            yield Difference(where=member.name, what="the record says otherwise what its publisher intends")
        if (member.license, member.role) != (told.license, told.role):
            yield Difference(
                where=member.name, what="the record has another licence or role than the manifest"
            )
        served = told.serve.commitment if told.serve else None
        if served != grounds.commitments.serve.get(member.name):
            yield Difference(where=member.name, what="the record names another system prompt or guard")
        held = {**grounds.commitments.targets, **grounds.commitments.weights}
        for variant in told.variants:
            name = f"{member.name}/{variant.id}"
            if name in held and held[name] != variant.commitment:
                yield Difference(where=name, what="the record is about other bytes than the manifest")


def _weights(folder: Path, dossier: Dossier, grounds: Grounds) -> Iterator[Difference]:
    """Parameters are counted on the weights that are here."""
    told = {(each.member, each.variant): each for each in grounds.facts}
    for node in dossier.tree.nodes:
        fact = told.get((node.member or "", node.variant or ""))
        if fact is None or node.variant is None or node.files is None:
            continue
        place = folder / (node.at or "")
        single = next((name for name in node.files if name.endswith(".gguf")), None)
        counted = describe(place / single if single else place).parameters
        if (fact.least, fact.most) != (counted, counted) and not fact.adapter:
            what = f"its weights have {counted:,} parameters, the record says {fact.least:,}"
            yield Difference(where=f"{node.member}/{node.variant}", what=what)


def _notes(report: Report, dossier: Dossier, differs: bool) -> Iterator[str]:
    claimed = sorted({each.keyid for each in dossier.evidence} - report.makers)
    for key in claimed:
        n = sum(len(each.evidence.outcomes) for each in dossier.evidence if each.keyid == key)
        yield f"{n:,} outcomes are only claimed to be of {shown(key)}: --trust KEYFILE checks them"
    if differs and dossier.made_by != f"dutchdoor {__version__}":
        yield f"made by {shown(dossier.made_by)}, replayed by dutchdoor {__version__}: their statistics may differ"
