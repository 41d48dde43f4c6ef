"""From stored evidence to bundles in one step: decide, note which evidence was asked, pack with it.

Measures nothing: without evidence nothing leaves.
"""

import asyncio
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dutchdoor.bundle.pack import Say, pack
from dutchdoor.bundle.tree import Progress, no_progress
from dutchdoor.core import ThreatModel
from dutchdoor.evidence.record import Evidence, Rung
from dutchdoor.evidence.shelf import open_shelf
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.family.load import LoadedFamily
from dutchdoor.policy.decide import decide
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.rules import LoadedPolicy
from dutchdoor.policy.shelf import Shelf


@dataclass(frozen=True)
class Packing:
    """What was decided, and the folders that were made."""

    decision: Decision
    paths: tuple[Path, ...]


class NotedShelf:
    """A shelf that keeps what it gave out: the evidence behind a decision, and no other."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.given: dict[tuple[str, str], Evidence] = {}

    def find(
        self, member: str, variant: str, suite: str, suite_digest: str, threat: ThreatModel, rung: Rung | None
    ) -> Evidence | None:
        found = self._shelf.find(member, variant, suite, suite_digest, threat, rung)
        if found is not None:
            self.given[found.address, found.made_at] = found
        return found

    def attested(self, member: str, variant: str, key: Path) -> Evidence | None:
        found = self._shelf.attested(member, variant, key)
        if found is not None:
            self.given[found.address, found.made_at] = found
        return found

    def why_missing(self, member: str, variant: str) -> str | None:
        return self._shelf.why_missing(member, variant)


async def decide_and_pack(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    data: Path,
    out: Path,
    signer: SigningKey,
    trusted: Sequence[PublicKey],
    *,
    today: datetime.date | None = None,
    members: Sequence[str] = (),
    progress: Progress = no_progress,
    say: Say = lambda text: None,
) -> Packing:
    """Decide from the evidence in the data folder and pack what may leave.

    Raises as `pack` does, and WeightsError for weights that are meant to leave and can't be read: that is a fault
    to be told, not a reason to hold a member back.
    """
    await asyncio.to_thread(_require_readable, loaded)
    store, salts, cache = EvidenceStore(data / "evidence"), Salts(data / "salts"), data / "cache"
    shelf = await open_shelf(store, loaded, trusted, salts=salts, cache=cache)
    for warning in shelf.warnings:
        say(warning)
    noted = NotedShelf(shelf)
    decision = decide(loaded, policies, noted, today or datetime.datetime.now(datetime.UTC).date())
    envelopes = [await store.envelope_of(noted.given[key]) for key in sorted(noted.given)]
    paths = await pack(
        loaded,
        decision,
        out,
        signer,
        salts=salts.for_digest,
        evidence=envelopes,
        cache=cache,
        members=members,
        progress=progress,
        say=say,
    )
    return Packing(decision, tuple(paths))


def _require_readable(loaded: LoadedFamily) -> None:
    for member in loaded.family.members:
        for variant in member.variants if member.intent.download else ():
            loaded.facts(member.name, variant.id)
