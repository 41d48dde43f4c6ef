"""Decide again from what a dossier holds: grounds and outcomes in, the decision that follows from them out.

Calls the very `decide` that publishers call, on a family, policies and a shelf that answer from the record.
What the record does not tell is answered by NOT_TOLD and so is inconclusive, never a pass. Reads no file.
"""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dutchdoor.core import DutchdoorError, EvidenceError, WeightsError, digest_bytes
from dutchdoor.evidence.coverage import Cases
from dutchdoor.evidence.record import Evidence, Rung
from dutchdoor.evidence.shelf import StoredShelf
from dutchdoor.evidence.signing_keys import PublicKey, parse_public
from dutchdoor.evidence.store import Stored
from dutchdoor.evidence.subjects import Bytes, Subjects
from dutchdoor.family.document import Document, parse_document
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.weights import WeightsFacts
from dutchdoor.policy.decide import decide
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.grounds import Grounds, Key, PolicyText, ToldFacts
from dutchdoor.policy.judge import NOT_TOLD, ClassedFacts
from dutchdoor.policy.rules import ATTACK_SET, REFUSED_SUITE, LoadedPolicy, Policy, check_policy

NOWHERE = Path("/dev/null/dossier")  # below a file: no path of a dossier can name anything on this machine


@dataclass(frozen=True)
class RecordedFamily(LoadedFamily):
    """A family as a dossier tells it."""

    told: dict[Key, ToldFacts] = field(default_factory=dict, repr=False)

    def resolve(self, relative: str) -> Path:
        return NOWHERE / relative

    def reference_path(self, name: str) -> Path | None:
        reference = self.family.references.get(name)
        return None if reference is None or reference.weights is None else NOWHERE / name

    def facts(self, member: str, variant: str) -> WeightsFacts | None:
        told = self.told.get((member, variant))
        if told is None:
            raise WeightsError(f"{NOT_TOLD}: what the weights of {member}/{variant} are")
        if told.fault is not None:
            raise WeightsError(told.fault)
        if not told.at_hand:
            return None
        return ClassedFacts(
            format=told.format,
            architecture=None,
            parameters=told.least,
            context_length=None,
            dtype="",
            quantised=told.quantised,
            license=None,
            name="",
            files=(),
            has_chat_template=False,
            adapter=told.adapter,
            most=math.inf if told.most is None else told.most,
        )


@dataclass(frozen=True)
class RecordedPolicy(LoadedPolicy):
    """A policy as a dossier tells it, with the keys that its rules name."""

    keys: dict[str, str] = field(default_factory=dict)
    listed: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def cases(self, suite: str) -> Cases:
        if suite not in self.listed:
            raise EvidenceError(f"{NOT_TOLD}: which cases {suite} has")
        return self.listed[suite]

    def key_path(self, name: str) -> Path | None:
        return self.folder / name if name in self.keys else None


class RecordedSubjects(Subjects):
    """What the grounds say that evidence names its subjects by."""

    def __init__(self, loaded: LoadedFamily, grounds: Grounds) -> None:
        self.loaded = loaded
        self.members = {member.name: member for member in loaded.family.members}
        self._told = grounds.commitments
        self._missing = {(each.member, each.variant): each.why for each in grounds.missing}

    def bytes_of(self, member: str, variant: str) -> Bytes:
        if (member, variant) not in self._missing:
            return Bytes(reason=f"{NOT_TOLD}: whether {member}/{variant} could be measured")
        return Bytes(reason=self._missing[member, variant])

    def weights_commitment(self, member: str, variant: str, *, make: bool = False) -> str | None:
        return self._told.weights.get(f"{member}/{variant}")

    def target_commitment(self, member: str, variant: str, *, make: bool = False) -> str | None:
        return self._told.targets.get(f"{member}/{variant}")

    def serve_commitment(self, member: str, *, make: bool = False) -> str | None:
        return self._told.serve.get(member)

    def as_run(self, rung: Rung, *, make: bool = False) -> Rung | None:
        return rung  # a recorded policy names its attack set by commitment already

    def served_plainly(self, member: str) -> bool:
        if member not in self.members:
            return True
        serve = self.members[member].serve
        return serve.system_prompt is None and serve.guard is None


class RecordedShelf(StoredShelf):
    """The evidence of a dossier; `find` is the one that publishers use."""

    def __init__(
        self, subjects: RecordedSubjects, stored: Sequence[Stored], keys: dict[Path, PublicKey]
    ) -> None:
        super().__init__(subjects, stored)
        self._stored, self._keys = tuple(stored), keys

    def attested(self, member: str, variant: str, key: Path) -> Evidence | None:
        weights = self.subjects.weights_commitment(member, variant)
        if weights is None or (public := self._keys.get(key)) is None:
            return None
        found = [
            each.evidence
            for each in self._stored
            if each.key_id == public.key_id and each.evidence.subject.commitment == weights
        ]
        return max(found, key=lambda evidence: (evidence.made_at, evidence.address), default=None)


@dataclass(frozen=True)
class Replay:
    """A decision's record, about to be decided again. Make with `replayed`."""

    loaded: RecordedFamily
    policies: tuple[RecordedPolicy, ...]
    shelf: RecordedShelf

    def decide(self, today: datetime.date) -> Decision:
        """The decision that follows on this day, by the code that publishers use."""
        return decide(self.loaded, self.policies, self.shelf, today)


def replayed(grounds: Grounds, stored: Sequence[Stored]) -> Replay:
    """Set up a replay. Raises DocumentError for a policy, EvidenceError for a key that can't be read."""
    loaded = RecordedFamily(
        grounds.family,
        NOWHERE,
        NOWHERE,
        told={(each.member, each.variant): each for each in grounds.facts},
    )
    policies = tuple(recorded_policy(each, index) for index, each in enumerate(grounds.policies))
    keys = {each.folder / name: _key(text, name) for each in policies for name, text in each.keys.items()}
    return Replay(loaded, policies, RecordedShelf(RecordedSubjects(loaded, grounds), stored, keys))


def recorded_policy(told: PolicyText, index: int = 0) -> RecordedPolicy:
    """A policy from its text, checked as `load_policy` checks it. Raises DocumentError."""
    name = f"policy {told.id}"
    document = Document(parse_document(told.text, Policy, name), name, {})
    check_policy(document)
    tampered = document.value.threats.tampered
    named = {*document.value.suites, *((REFUSED_SUITE, ATTACK_SET) if tampered else ())}
    if lacking := sorted(named - told.digests.keys()):
        raise EvidenceError(f"{NOT_TOLD}: the digest of {lacking[0]}, which the policy {told.id} names")
    folder = NOWHERE / str(index)
    digest = digest_bytes(told.text.encode())
    return RecordedPolicy(
        document.value, folder, digest, folder / "policy.yaml", told.digests, told.keys, told.cases
    )


def _key(text: str, name: str) -> PublicKey:
    try:
        return parse_public(text.encode(), name)
    except DutchdoorError as error:
        raise EvidenceError(f"the dossier's key {name} can't be read: {error.message}") from error


def with_log(grounds: Grounds, lines: Sequence[bytes], head: str | None) -> Grounds:
    """The grounds with what the release log says of these policies and this evidence."""
    return msgspec.structs.replace(grounds, log=tuple(line.decode() for line in lines), log_head=head)
