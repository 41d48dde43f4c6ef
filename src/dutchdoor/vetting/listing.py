"""What is in a family's evidence store: on what, by whom, of when. Judges nothing."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dutchdoor.evidence.signing_keys import PublicKey, own_public_key, trusted_keys
from dutchdoor.evidence.store import EvidenceStore, Salts, Stored
from dutchdoor.evidence.subjects import Subjects, identify
from dutchdoor.family.load import LoadedFamily


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of evidence. `current`: it is about the bytes that lie here now."""

    address: str
    member: str
    variant: str
    threat: str
    rung: str | None
    suite: str
    n: int
    missing: int
    made_at: str
    engine: str
    engine_version: str
    signer: str  # you, or the file that the key was found in
    key_id: str
    trusted: bool  # else it counts only where a rule names its key
    current: bool


async def listed(
    loaded: LoadedFamily, data: Path, config: Path, known: Sequence[PublicKey] = ()
) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """Everything of this family that holds, oldest first, and in words what was left out.

    `known` keys are those that rules name: evidence of theirs is listed, and not trusted for that.
    """
    trusted = trusted_keys(config)
    contents = await EvidenceStore(data / "evidence").all([*trusted, *known])
    subjects = await identify(loaded, Salts(data / "salts"), data / "cache")
    own = own_public_key(config)
    names = {key.key_id: Path(key.source).name or key.key_id[:15] for key in (*known, *trusted)}
    if own is not None:
        names[own.key_id] = "you"
    ids = {key.key_id for key in trusted}
    mine = [each for each in contents.evidence if each.evidence.subject.family == loaded.family.family]
    return tuple(_line(each, subjects, names, ids) for each in mine), contents.warnings


def _line(stored: Stored, subjects: Subjects, names: dict[str, str], trusted: set[str]) -> Line:
    evidence, of, asked = stored.evidence, stored.evidence.subject, stored.evidence.conditions
    return Line(
        address=evidence.address,
        member=of.member,
        variant=of.variant,
        threat=asked.threat.value,
        rung=asked.rung.label if asked.rung else None,
        suite=asked.suite,
        n=len(evidence.outcomes),
        missing=sum(each.correct is None and each.refused is None for each in evidence.outcomes),
        made_at=evidence.made_at,
        engine=asked.engine,
        engine_version=asked.engine_version,
        signer=names[stored.key_id],
        key_id=stored.key_id,
        trusted=stored.key_id in trusted,
        current=of.commitment
        in (
            subjects.weights_commitment(of.member, of.variant),
            subjects.target_commitment(of.member, of.variant),
        ),
    )
