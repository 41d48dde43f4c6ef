"""Measures what the policies ask: each setting is set up once, each suite asked, each outcome signed and
stored.

What was stored before and still holds is not measured again. What can't be measured is reported with the
reason, and nothing is measured in its place. Judges nothing: `dutchdoor.policy.decide` reads the same
store.
"""

import datetime
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dutchdoor.core import EvidenceError, ThreatModel
from dutchdoor.evidence.shelf import open_shelf
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.family.load import LoadedFamily
from dutchdoor.policy.rules import LoadedPolicy
from dutchdoor.vetting.bench import Session, Tell, find
from dutchdoor.vetting.laboratory import REMOTE_SILENCE_S, HomeLaboratory, Laboratory
from dutchdoor.vetting.pace import Pace, cost
from dutchdoor.vetting.plan import Job, ask_rules, settle
from dutchdoor.vetting.report import VetReport, due, out_of_reach
from dutchdoor.vetting.runner import PATIENCE, REMOTE_CONCURRENCY, Patience
from dutchdoor.vetting.suites import load_suite

ROUNDS = 3  # a first plan, and what only becomes a question once its evidence is there


async def vet(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    store: EvidenceStore,
    signer: SigningKey,
    *,
    trusted: Sequence[PublicKey] = (),
    members: Sequence[str] = (),
    threats: Sequence[ThreatModel] = (),
    progress: Tell | None = None,
    laboratory: Laboratory | None = None,
    today: datetime.date | None = None,
    concurrency: int = REMOTE_CONCURRENCY,
    silence_s: float = REMOTE_SILENCE_S,
    patience: Patience = PATIENCE,
) -> VetReport:
    """Measure all that the policies ask and the store does not hold; see `plan` for `members` and `threats`.

    A member that is served elsewhere is asked `concurrency` questions at a time and waited for `silence_s`.
    Salts and cache lie beside the store's folder. Raises what stops everything (a broken suite, no right to
    write, MissingExtraError when an attack is due and torch is not there); what stops one setting is a
    reason in its rows.
    """
    data = store.folder.parent
    cache = data / "cache"
    keys = tuple(dict.fromkeys([signer.public, *trusted]))
    with only_one(data):
        shelf = await open_shelf(store, loaded, keys, salts=Salts(data / "salts"), cache=cache)
        async with laboratory or HomeLaboratory(cache, concurrency, silence_s) as home:
            session = Session(
                loaded, policies, store, signer, shelf, home, cache, progress or (lambda _: None)
            )
            session.concurrency, session.patience = concurrency, patience
            wanted = partial(_wanted, loaded, members, threats)
            jobs: list[Job] = []
            for _ in range(ROUNDS):
                asked, unmeasurable = ask_rules(loaded, policies, today=today, shelf=shelf)
                asked = [job for job in asked if wanted(job.setting.member, job.setting.threat)]
                new = [job for job in settle(asked, shelf.subjects) if job not in jobs]
                if not new:
                    break
                jobs += new
                await session.measure([job for job in new if session.found(job) is None])
    rows = [session.row(job) for job in jobs]
    rows += [out_of_reach(each) for each in unmeasurable if wanted(each.member, each.threat)]
    return VetReport(rows=tuple(rows), warnings=shelf.warnings)


async def planned(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    store: EvidenceStore,
    *,
    trusted: Sequence[PublicKey],
    members: Sequence[str] = (),
    threats: Sequence[ThreatModel] = (),
    today: datetime.date | None = None,
) -> VetReport:
    """What `vet` would do, as rows that are `reused`, `due` or `unmeasured`. Measures nothing."""
    data = store.folder.parent
    shelf = await open_shelf(store, loaded, trusted, salts=Salts(data / "salts"), cache=data / "cache")
    asked, unmeasurable = ask_rules(loaded, policies, today=today, shelf=shelf)
    wanted = partial(_wanted, loaded, members, threats)
    jobs = settle([job for job in asked if wanted(job.setting.member, job.setting.threat)], shelf.subjects)
    counts = {job.suite_digest: len(load_suite(Path(job.suite_path)).cases) for job in jobs}
    rows = [due(job, find(shelf, job), counts[job.suite_digest]) for job in jobs]
    rows += [out_of_reach(each) for each in unmeasurable if wanted(each.member, each.threat)]
    open_jobs = [job for job in jobs if find(shelf, job) is None]
    return VetReport(
        rows=tuple(rows),
        warnings=shelf.warnings,
        due=cost(open_jobs, counts, Pace(data / "cache")),
    )


def _wanted(
    loaded: LoadedFamily,
    members: Sequence[str],
    threats: Sequence[ThreatModel],
    member: str,
    threat: ThreatModel,
) -> bool:
    """Whether something is to be measured: references always, they are what members are compared with."""
    return (not members or member in members or member in loaded.family.references) and (
        not threats or threat in threats
    )


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Hold the data folder: two at once would ask everything twice. Raises EvidenceError if it is taken."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = os.open(data / "vet.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise EvidenceError(
            f"can't write to {data}: {error.strerror}", hint="--data names a folder you can write"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvidenceError(
                f"another vet is at work in {data}", hint="wait for it, or name another --data"
            ) from None
        yield
    finally:
        os.close(lock)
