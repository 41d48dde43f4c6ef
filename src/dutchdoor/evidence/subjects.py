"""Whose evidence it is: the bytes behind each variant and reference, by digest, and the commitments that
name them.

Evidence is made before anyone knows what will close, so it holds commitments only; this is where they come
from. Where there are no bytes at hand (a hub that is out of reach, an adapter that nobody merged), it says
why.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dutchdoor.core import DutchdoorError, EvidenceError, digest_file, digest_value
from dutchdoor.evidence.record import Rung
from dutchdoor.evidence.store import Salts
from dutchdoor.family.load import REFERENCE_VARIANT, LoadedFamily, served_variant
from dutchdoor.family.manifest import Member, Variant
from dutchdoor.family.public import commitment
from dutchdoor.family.weights import variant_digest

DIGESTS = "digests.json"  # in the cache folder: digests of files by size and time of change


@dataclass(frozen=True)
class Bytes:
    """A variant's bytes: where they lie and their digest, or the reason why they are not at hand."""

    path: Path | None = None
    digest: str | None = None
    reason: str | None = None


class Subjects:
    """All variants and references of a family as they lie on disk now. Make with `identify`."""

    def __init__(self, loaded: LoadedFamily, known: Mapping[tuple[str, str], Bytes], salts: Salts) -> None:
        self.loaded = loaded
        self.members = {member.name: member for member in loaded.family.members}
        self._known = known
        self._salts = salts
        self._made: dict[tuple[str, str, str], str] = {}
        self._serve = {member.name: serve_digest(loaded, member) for member in loaded.family.members}

    def bytes_of(self, member: str, variant: str) -> Bytes:
        """Where a variant lies; a name nobody knows has the reason that it is unknown."""
        return self._known.get((member, variant), Bytes(reason=f"the family has no {member}/{variant}"))

    def served_variant(self, member: str) -> str | None:
        """The variant that the API serves; null for a reference."""
        if member not in self.members:
            return None
        return served_variant(self.members[member])

    def served_elsewhere(self, member: str) -> bool:
        """Whether the API reaches this member at a URL instead of on weights in hand."""
        return member in self.members and self.members[member].serve.target is not None

    def weights_commitment(self, member: str, variant: str, *, make: bool = False) -> str | None:
        """The commitment to a variant's bytes; null: none here, or no salt yet and none to make."""
        digest = self.bytes_of(member, variant).digest
        return None if digest is None else self._commit("variant", f"{member}/{variant}", digest, make)

    def target_commitment(self, member: str, variant: str, *, make: bool = False) -> str | None:
        """The commitment to URL and model name of a member that is served elsewhere: nobody has its bytes."""
        target = self.members[member].serve.target if member in self.members else None
        if target is None:
            return None
        digest = digest_value({"url": target.url, "model": target.model})
        return self._commit("target", f"{member}/{variant}", digest, make)

    def serve_commitment(self, member: str, *, make: bool = False) -> str | None:
        """The commitment to system prompt and guard; null: served plainly, or no salt and none to make."""
        digest = self._serve.get(member)
        return None if digest is None else self._commit("serve", f"{member}/serve", digest, make)

    def as_run(self, rung: Rung, *, make: bool = False) -> Rung | None:
        """A rung as evidence names it: its training set, which may be closed, by commitment.

        Null: no salt yet and none to make, so no evidence names it.
        """
        named = self.attack_set_commitment(rung.attack_set, make=make)
        return None if named is None else msgspec.structs.replace(rung, attack_set=named)

    def attack_set_commitment(self, digest: str, *, make: bool = False) -> str | None:
        """The commitment to what attacks are trained on; null: no salt yet and none to make."""
        return self._commit("attack-set", "attack-set", digest, make)

    def serve_digest(self, member: str) -> str | None:
        """The digest of system prompt and guard as they were identified; null where there is neither."""
        return self._serve.get(member)

    def served_plainly(self, member: str) -> bool:
        """Whether a member has neither system prompt nor guard; references never have."""
        return self._serve.get(member) is None

    def _commit(self, domain: str, component: str, digest: str, make: bool) -> str | None:
        key = (domain, component, digest)
        if key not in self._made:
            salt = self._salts.for_digest(digest) if make else self._salts.known(digest)
            if salt is None:
                return None
            self._made[key] = commitment(domain, self.loaded.family.family, component, salt, digest)
        return self._made[key]


def why_unattackable(loaded: LoadedFamily, member: str, variant: str) -> str | None:
    """Why weights can't be attacked here; null when they can. No stand-in is ever attacked in their place."""
    facts = loaded.facts(member, variant)
    if facts is None:
        return "its weights are not here, so they can't be attacked"
    if facts.format == "gguf":
        return "its weights are a GGUF file, which can't be trained on, so they can't be attacked"
    if facts.quantised:
        return "its weights are quantised, so they can't be attacked"
    if facts.adapter:
        return "it is an adapter: give the merged weights as a variant to have them attacked"
    return None


async def identify(loaded: LoadedFamily, salts: Salts, cache: Path) -> Subjects:
    """Digest every variant and reference; files whose size and time have not changed are not read again."""
    return await asyncio.to_thread(_identify, loaded, salts, cache)


def _identify(loaded: LoadedFamily, salts: Salts, cache: Path) -> Subjects:
    known: dict[tuple[str, str], Bytes] = {}
    for member in loaded.family.members:
        for variant in member.variants:
            known[member.name, variant.id] = _variant(loaded, variant, cache)
    for name, reference in loaded.family.references.items():
        place = reference.weights or reference.bundle
        known[name, REFERENCE_VARIANT] = (
            Bytes(reason=f"the reference {name} names no weights")
            if place is None
            else _at(loaded, place, cache)
        )
    return Subjects(loaded, known, salts)


def _variant(loaded: LoadedFamily, variant: Variant, cache: Path) -> Bytes:
    if variant.adapter is not None:
        return Bytes(
            reason=f"the adapter {variant.adapter} is not merged: give the merged weights as a variant"
        )
    if variant.weights is None:
        return Bytes(reason="its weights are not here: it is served elsewhere")
    return _at(loaded, variant.weights, cache)


def _at(loaded: LoadedFamily, place: str, cache: Path) -> Bytes:
    if place.startswith("hf://"):
        return Bytes(reason=f"{place} is not on this machine: download it and name the folder")
    path = loaded.resolve(place)
    try:
        return Bytes(path=path, digest=variant_digest(path, cache / DIGESTS))
    except DutchdoorError as error:
        return Bytes(path=path, reason=error.message)


def serve_digest(loaded: LoadedFamily, member: Member) -> str | None:
    """The digest of system prompt and guard together; null when a member has neither.

    Raises EvidenceError when a file that is named can't be read: what is served must be known.
    """
    files = {"system_prompt": member.serve.system_prompt, "guard": member.serve.guard}
    if not any(files.values()):
        return None
    try:
        digests = {part: digest_file(loaded.resolve(name)) if name else None for part, name in files.items()}
    except OSError as error:
        raise EvidenceError(f"{member.name}: can't read {error.filename}: {error.strerror}") from error
    return digest_value(digests)
