"""Where a report is read from: the stored evidence of a family, or a bundle that was verified."""

import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path

from msgspec import UNSET

from dutchdoor.bundle.gather import published
from dutchdoor.bundle.recompute import Outcome, recompute
from dutchdoor.bundle.verify import Verdict, own_signer, verify
from dutchdoor.core import BundleError
from dutchdoor.evidence.release_log import read, release_log
from dutchdoor.evidence.shelf import open_shelf
from dutchdoor.evidence.signing_keys import PublicKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.family.load import LoadedFamily
from dutchdoor.policy.decide import decide
from dutchdoor.policy.grounds import NotedShelf
from dutchdoor.policy.replay import recorded_policy
from dutchdoor.policy.rules import LoadedPolicy
from dutchdoor.policy.timing import told_digests, with_timing
from dutchdoor.release.report.view import Run, View


async def from_family(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    data: Path,
    trusted: Sequence[PublicKey],
    today: datetime.date,
) -> View:
    """Decide from the stored evidence of a data folder, as `dutchdoor decide` does. Raises what that raises."""
    store = EvidenceStore(data / "evidence")
    shelf = await open_shelf(store, loaded, trusted, salts=Salts(data / "salts"), cache=data / "cache")
    noted = NotedShelf(shelf)
    decision = decide(loaded, policies, noted, today)
    history = read(release_log(data, loaded.family.family), trusted)
    evidence = list(noted.given.values())
    entries = [each for each in history.entries if each.trusted]
    decision = with_timing(
        decision, [told_digests(each, shelf.subjects) for each in policies], evidence, entries
    )
    decision = published(loaded, decision)  # a report is handed on: nothing closed is counted or named in it
    keys = {
        (each.evidence.address, each.evidence.made_at): each.key_id
        for each in (await store.all(trusted)).evidence
    }
    manifest = shlex.quote(str(loaded.path))
    checks: list[tuple[bool | None, str]] = [(None, warning) for warning in shelf.warnings]
    checks += [(False, f"release log: {fault}") for fault in history.faults]
    return View(
        family=loaded.family.family,
        version=loaded.family.version,
        publisher=loaded.family.publisher.name,
        member=None,
        source="the stored evidence of the family",
        decided_on=today,
        decision=decision,
        policies=tuple(each.policy for each in policies),
        runs=tuple(
            Run(each, keys.get((each.address, each.made_at), key[2] or "unknown"), checked=True)
            for key, each in noted.given.items()
        ),
        checks=tuple(checks),
        commands=(f"dutchdoor decide {manifest}", f"dutchdoor policy log {manifest}"),
    )


async def from_bundle(folder: Path, trusted: Sequence[PublicKey], today: datetime.date) -> View:
    """Read a bundle, verify it, and replay its decision.

    Raises BundleError when its dossier does not hold: of that nothing can be reported.
    """
    report = await verify(folder, trusted)
    dossier = report.dossier
    if dossier is None:
        first = report.findings[0]
        raise BundleError(
            f"{folder} does not hold: {first.file}: {first.what}", hint="`dutchdoor verify` says more"
        )
    again = recompute(report, today, trusted, own_signer(folder))
    checks: list[tuple[bool | None, str]] = []
    checks += [(False, f"{each.file}: {each.what}") for each in report.findings]
    if report.verdict is Verdict.VALID:
        checks.append((True, f"Every file is as signed, by a trusted key ({report.signer})."))
    elif not report.findings:
        checks.append((None, f"Every file is as signed, but by an unknown key ({report.signer})."))
    if again.verdict is Outcome.SAME:
        text = (
            f"The same decision follows from the {again.outcomes:,} outcomes in the bundle, on {again.as_of}."
        )
        checks.append((True, text))
    checks += [(False, f"Does not follow: {each.where}: {each.what}") for each in again.differences]
    checks += [(False, f"No longer follows: {each.where}: {each.what}") for each in again.today]
    checks += [(None, f"Can't be replayed: {each.where}: {each.what}") for each in again.untold]
    checks += [(None, note) for note in again.notes]
    grounds = None if dossier.grounds is UNSET else dossier.grounds
    place = shlex.quote(str(folder))
    return View(
        family=dossier.family,
        version=dossier.version,
        publisher=dossier.publisher.name,
        member=dossier.member,
        source=f"the bundle {folder.name}, made {dossier.made_at} with {dossier.made_by}",
        decided_on=grounds.decided_on if grounds else None,
        decision=dossier.decision,
        policies=tuple(recorded_policy(each).policy for each in grounds.policies) if grounds else (),
        runs=tuple(
            Run(each.evidence, each.keyid, checked=each.keyid in report.makers) for each in dossier.evidence
        ),
        checks=tuple(checks),
        commands=(f"dutchdoor verify {place} --recompute", f"dutchdoor report {place} --out report.html"),
    )
