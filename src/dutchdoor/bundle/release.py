"""From stored evidence to bundles in one step: decide, note which evidence was asked, pack with it.

Measures nothing: without evidence nothing leaves.
"""

import asyncio
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dutchdoor.bundle.layout import DOSSIER
from dutchdoor.bundle.pack import Say, pack
from dutchdoor.bundle.tree import Progress, no_progress
from dutchdoor.core import digest_file
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.release_log import ReleaseLog, append, read, release_log
from dutchdoor.evidence.shelf import open_shelf
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.family.load import LoadedFamily
from dutchdoor.policy.decide import decide
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.grounds import Grounds, NotedShelf, record
from dutchdoor.policy.grounds import noted as noted_family
from dutchdoor.policy.replay import with_log
from dutchdoor.policy.rules import LoadedPolicy
from dutchdoor.policy.timing import log_decision, policy_subject, with_timing

__all__ = ["NotedShelf", "Packing", "decide_and_pack"]


@dataclass(frozen=True)
class Packing:
    """What was decided, and the folders that were made."""

    decision: Decision
    paths: tuple[Path, ...]


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
    day = today or datetime.datetime.now(datetime.UTC).date()
    asked = noted_family(loaded)
    decision = decide(asked, policies, noted, day)
    evidence = [noted.given[key] for key in sorted(noted.given)]
    envelopes = [await store.envelope_of(noted.given[key], key[2] or None) for key in sorted(noted.given)]
    grounds = record(asked, policies, decision, shelf.subjects, noted.missing, day)
    decision, grounds = timed(decision, grounds, evidence, release_log(data, loaded.family.family), trusted)
    paths = await pack(
        loaded,
        decision,
        out,
        signer,
        salts=salts.for_digest,
        evidence=envelopes,
        grounds=grounds,
        cache=cache,
        members=members,
        progress=progress,
        say=say,
    )
    log_packing(release_log(data, loaded.family.family), decision, paths, signer)
    return Packing(decision, tuple(paths))


def log_packing(log: ReleaseLog, decision: Decision, paths: Sequence[Path], signer: SigningKey) -> None:
    """Note the decision, and each bundle by the digest of its dossier. Raises EvidenceError."""
    log_decision(log, decision, signer)
    for path in paths:
        append(log, "pack", digest_file(path / DOSSIER), signer, name=path.name)


def timed(
    decision: Decision,
    grounds: Grounds,
    evidence: Sequence[Evidence],
    log: ReleaseLog,
    trusted: Sequence[PublicKey],
) -> tuple[Decision, Grounds]:
    """Both with what the release log says of when each policy was committed."""
    history = read(log, trusted)
    subjects = {
        policy_subject(ref.digest, told.digests)
        for ref, told in zip(decision.policies, grounds.policies, strict=True)
    }
    addresses = {each.address for each in evidence}
    entries = [
        each
        for each in history.entries
        if each.trusted and each.entry.subject in (subjects if each.entry.kind == "policy" else addresses)
    ]
    return (
        with_timing(decision, [each.digests for each in grounds.policies], evidence, entries),
        with_log(grounds, [each.line for each in entries], history.head),
    )


def _require_readable(loaded: LoadedFamily) -> None:
    for member in loaded.family.members:
        for variant in member.variants if member.intent.download else ():
            loaded.facts(member.name, variant.id)
