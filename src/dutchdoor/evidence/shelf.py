"""The evidence that is valid for a family as it lies on disk now.

Recomputes the commitments of variants, system prompts and guards and gives out only evidence that names
them; of several (other versions of the engine) the newest. Evidence about other bytes, another suite or
another guard is simply not found. Structurally the `Shelf` that `dutchdoor.policy.decide` asks.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from dutchdoor.core import ThreatModel
from dutchdoor.evidence.record import Evidence, Rung
from dutchdoor.evidence.signing_keys import PublicKey, read_public
from dutchdoor.evidence.store import EvidenceStore, Salts, Stored
from dutchdoor.evidence.subjects import Subjects, identify
from dutchdoor.family.load import LoadedFamily

Key = tuple[str, str, str]  # member, variant, suite digest


class StoredShelf:
    """Evidence by what a rule asks for. Make with `open_shelf`."""

    def __init__(
        self,
        subjects: Subjects,
        stored: Iterable[Stored],
        warnings: Sequence[str] = (),
        store: EvidenceStore | None = None,
    ) -> None:
        self.subjects = subjects
        self._store = store  # for `attested`, where keys count that are not trusted otherwise
        self.warnings = tuple(warnings)
        self._by_key: dict[Key, list[Evidence]] = defaultdict(list)
        for each in stored:
            self.add(each.evidence)

    def add(self, evidence: Evidence) -> None:
        """Take in evidence that was just made or checked."""
        subject, conditions = evidence.subject, evidence.conditions
        if subject.family == self.subjects.loaded.family.family:
            self._by_key[subject.member, subject.variant, conditions.suite_digest].append(evidence)

    def find(
        self,
        member: str,
        variant: str,
        suite: str,
        suite_digest: str,
        threat: ThreatModel,
        rung: Rung | None,
    ) -> Evidence | None:
        """The newest evidence about exactly these bytes, or null.

        A member that is served plainly is measured once: guarded and not attacked are then the same, on one
        variant.
        """
        found = [
            evidence
            for evidence in self._by_key.get((member, variant, suite_digest), ())
            if evidence.conditions.suite == suite and self._matches(evidence, threat, rung)
        ]
        return max(found, key=lambda evidence: (evidence.made_at, evidence.address), default=None)

    def attested(self, member: str, variant: str, key: Path) -> Evidence | None:
        """The newest evidence on exactly these bytes that this public key signed; null when there is none.

        The key need not be trusted otherwise: the rule that names it says whose word counts.
        """
        weights = self.subjects.weights_commitment(member, variant)
        if weights is None or self._store is None:
            return None
        found = [
            stored.evidence
            for stored in self._store.read_all((read_public(key),)).evidence
            if stored.evidence.subject.commitment == weights
        ]
        return max(found, key=lambda evidence: (evidence.made_at, evidence.address), default=None)

    def why_missing(self, member: str, variant: str) -> str | None:
        """Why there can be no evidence about a variant's weights here; null when there could."""
        return self.subjects.bytes_of(member, variant).reason

    def _matches(self, evidence: Evidence, threat: ThreatModel, rung: Rung | None) -> bool:
        subjects, subject, conditions = self.subjects, evidence.subject, evidence.conditions
        if rung is None and conditions.rung is not None:
            return False
        if rung is not None and (conditions.rung is None or conditions.rung != subjects.as_run(rung)):
            return False
        weights = subjects.weights_commitment(subject.member, subject.variant)
        plain = weights is not None and subject.commitment == weights and conditions.serve is None
        if (
            threat is ThreatModel.TAMPERED
        ):  # attacked only counts as attacked; untouched, both threats are the same
            return plain and (rung is None or conditions.threat is ThreatModel.TAMPERED)
        if rung is not None:  # whoever attacks has the weights, not the API
            return False
        elsewhere = subjects.served_elsewhere(subject.member)
        if not elsewhere and subjects.served_plainly(subject.member):
            return plain
        if conditions.threat is not ThreatModel.GUARDED or not self._serves_like(
            conditions.serve, subject.member
        ):
            return False
        there = subjects.target_commitment(subject.member, subject.variant) if elsewhere else weights
        return there is not None and subject.commitment == there

    def _serves_like(self, serve: str | None, member: str) -> bool:
        """Whether evidence was made behind the very system prompt and guard that are declared now."""
        if self.subjects.served_plainly(member):
            return serve is None
        return serve is not None and serve == self.subjects.serve_commitment(member)


async def open_shelf(
    store: EvidenceStore, loaded: LoadedFamily, trusted: Sequence[PublicKey], *, salts: Salts, cache: Path
) -> StoredShelf:
    """Everything of the store that holds and is signed by one of `trusted`; the rest is in `warnings`."""
    contents = await store.all(trusted)
    return StoredShelf(await identify(loaded, salts, cache), contents.evidence, contents.warnings, store)
