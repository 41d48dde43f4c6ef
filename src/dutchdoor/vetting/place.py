"""Where an imported outcome belongs: whose it is and under which conditions, in the words of evidence.

The same subjects, conditions and commitments as those of `vetting.vet`, so that a decision can't tell who
measured. Refuses a place that no policy describes.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dutchdoor.core import ThreatModel, UsageError, WeightsError
from dutchdoor.evidence.record import Rung, Subject
from dutchdoor.evidence.subjects import Subjects, why_unattackable
from dutchdoor.family.load import REFERENCE_VARIANT, LoadedFamily, served_variant
from dutchdoor.policy.rules import REFUSED_SUITE, LoadedPolicy, rungs


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A suite on a variant under a threat. Make with `find_place`."""

    member: str
    variant: str
    threat: ThreatModel
    rung: Rung | None  # its training set by digest, as a policy names it
    suite: str
    suite_digest: str
    suite_path: Path


def find_place(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    *,
    member: str,
    variant: str | None,
    threat: ThreatModel,
    rung: str | None,
    suite: str,
) -> Place:
    """The place that these names mean. Raises UsageError, naming what there is."""
    digest, path = _suite(policies, suite)
    if rung is not None and threat is not ThreatModel.TAMPERED:
        raise UsageError("--rung goes with --threat tampered", hint="whoever attacks has the weights")
    if suite == REFUSED_SUITE and rung is None:
        raise UsageError("--suite refused is the success check of an attack", hint="--rung attack:steps:seed")
    return Place(
        member=member,
        variant=_variant(loaded, member, variant, threat),
        threat=threat,
        rung=None if rung is None else _rung(policies, rung),
        suite=suite,
        suite_digest=digest,
        suite_path=path,
    )


def _suite(policies: Sequence[LoadedPolicy], name: str) -> tuple[str, Path]:
    found = {}
    for each in policies:
        known = name in each.policy.suites or (name == REFUSED_SUITE and name in each.digests)
        if known:
            found[each.digests[name]] = each.suite_path(name)
    if not found:
        names = sorted({suite for each in policies for suite in each.policy.suites})
        if any(REFUSED_SUITE in each.digests for each in policies):
            names.append(REFUSED_SUITE)
        raise UsageError(f"no policy has a suite {name!r}", hint=f"suites: {', '.join(names) or 'none'}")
    if len(found) > 1:
        raise UsageError(
            f"the policies have different suites {name!r}", hint="--policy FILE names one policy"
        )
    return next(iter(found.items()))


def _variant(loaded: LoadedFamily, name: str, variant: str | None, threat: ThreatModel) -> str:
    if name in loaded.family.references:
        if variant not in (None, REFERENCE_VARIANT):
            raise UsageError(f"the reference {name!r} has no variants", hint="leave --variant out")
        return REFERENCE_VARIANT
    members = {each.name: each for each in loaded.family.members}
    if name not in members:
        known = ", ".join([*members, *loaded.family.references])
        raise UsageError(f"there is no member or reference {name!r}", hint=f"there are: {known}")
    ids = [each.id for each in members[name].variants]
    if variant is None and threat is ThreatModel.GUARDED:
        return served_variant(members[name])
    if variant is None and len(ids) == 1:
        return ids[0]
    if variant not in ids:
        what = "which variant?" if variant is None else f"{name} has no variant {variant!r}"
        raise UsageError(what, hint=f"--variant is one of {', '.join(ids)}")
    if threat is ThreatModel.GUARDED and variant != served_variant(members[name]):
        raise UsageError(
            f"{name}/{variant} is not what is served", hint=f"the API serves {served_variant(members[name])}"
        )
    return variant


def _rung(policies: Sequence[LoadedPolicy], label: str) -> Rung:
    ladder = dict.fromkeys(rung for each in policies for rung in rungs(each))
    found = [rung for rung in ladder if rung.label == label]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"several rungs of the policies are {label}",
            hint="--policy FILE names one policy; budgets must differ",
        )
    known = ", ".join(dict.fromkeys(rung.label for rung in ladder)) or "none"
    raise UsageError(f"no policy has a rung {label!r}", hint=f"rungs: {known}")


def subject_of(subjects: Subjects, place: Place) -> Subject:
    """Whose outcomes they are, by commitment. Raises WeightsError where no bytes can be named."""
    guarded = place.threat is ThreatModel.GUARDED
    elsewhere = guarded and subjects.served_elsewhere(place.member)
    named = subjects.target_commitment if elsewhere else subjects.weights_commitment
    commitment = named(place.member, place.variant, make=True)
    if commitment is None:
        reason = subjects.bytes_of(place.member, place.variant).reason
        raise WeightsError(
            f"{place.member}/{place.variant}: {reason or 'its weights are not here'}",
            hint="evidence names the bytes it is about, so they must be here",
        )
    if place.rung is not None:
        reason = why_unattackable(subjects.loaded, place.member, place.variant)
        if reason is not None:
            raise WeightsError(
                f"{place.member}/{place.variant}: {reason}", hint="such evidence would decide nothing"
            )
    return Subject(
        family=subjects.loaded.family.family,
        member=place.member,
        variant=place.variant,
        commitment=commitment,
    )
