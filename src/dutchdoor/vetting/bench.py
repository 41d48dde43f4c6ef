"""Settings at work: each is set up once, each of its suites asked, each outcome signed and stored.

What can't be measured is left with its reason, and nothing is measured in its place. Decides neither what is asked
nor what follows from it.
"""

import asyncio
import datetime
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from dutchdoor import __version__
from dutchdoor.core import DutchdoorError, EngineError, EvidenceError, ThreatModel, WeightsError, digest_file
from dutchdoor.engines.interface import Engine
from dutchdoor.evidence.measures import MAX_MISSING
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Sampling, Subject
from dutchdoor.evidence.release_log import append_evidence
from dutchdoor.evidence.shelf import StoredShelf
from dutchdoor.evidence.signing_keys import SigningKey
from dutchdoor.evidence.store import EvidenceStore
from dutchdoor.evidence.subjects import DIGESTS, serve_digest, why_unattackable
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.weights import variant_digest
from dutchdoor.policy.rules import LoadedPolicy
from dutchdoor.vetting.checkpoint import Checkpoint
from dutchdoor.vetting.cores import Cores
from dutchdoor.vetting.laboratory import Laboratory, Line
from dutchdoor.vetting.pace import Pace
from dutchdoor.vetting.plan import Job, Setting, attack_set_paths
from dutchdoor.vetting.report import Row, row, verdict_so_far
from dutchdoor.vetting.runner import (
    CONCURRENCY,
    PATIENCE,
    REMOTE_CONCURRENCY,
    BelowGuard,
    Progress,
    run_cases,
)
from dutchdoor.vetting.suites import Suite, load_suite

SAMPLING = Sampling()  # greedy: a suite is measured one way

State = Literal["waiting", "attacking", "loading", "asking", "done", "failed"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What happens in one setting now: `done` of `total` cases (or steps of its attack), rate, time left."""

    setting: str
    state: State
    detail: str = ""  # the suite, the attack's last line, or the reason of a failure
    done: int = 0
    total: int = 0
    rate: float = 0.0  # a second
    seconds_left: float | None = None
    after_attack: bool = False  # the attack comes first; what is asked is the second part
    so_far: Callable[[], str] | None = None  # tells what the suite at hand has come to, with its interval


Tell = Callable[[Step], None]


def find(shelf: StoredShelf, job: Job) -> Evidence | None:
    """The evidence of a job, if the shelf has it."""
    at = job.setting
    return shelf.find(at.member, at.variant, job.suite, job.suite_digest, at.threat, at.rung)


class Session:
    """What all settings of one call share."""

    def __init__(
        self,
        loaded: LoadedFamily,
        policies: Sequence[LoadedPolicy],
        store: EvidenceStore,
        signer: SigningKey,
        shelf: StoredShelf,
        laboratory: Laboratory,
        cache: Path,
        tell: Tell,
    ) -> None:
        self.loaded, self.policies, self.store, self.signer = loaded, policies, store, signer
        self.shelf, self.laboratory, self.cache, self.tell = shelf, laboratory, cache, tell
        self.max_missing = max(
            [rule.max_missing for each in policies for rule in each.policy.rules], default=MAX_MISSING
        )
        self.cores = Cores()
        self.concurrency, self.patience = REMOTE_CONCURRENCY, PATIENCE
        self.pace = Pace(cache)
        self.fresh: set[Job] = set()
        self.reasons: dict[Job, str] = {}
        self._attacks: dict[tuple[str, str], asyncio.Lock] = {}

    def found(self, job: Job) -> Evidence | None:
        return find(self.shelf, job)

    def row(self, job: Job) -> Row:
        return row(job, self.found(job), fresh=job in self.fresh, reason=self.reasons.get(job))

    async def measure(self, jobs: Sequence[Job]) -> None:
        """All jobs, each setting once; attacks are queued first, because all else is short."""
        settings: dict[Setting, list[Job]] = {}
        for job in jobs:
            settings.setdefault(job.setting, []).append(job)
        if any(setting.rung for setting in settings):
            self.laboratory.ready_to_attack()
        suites = {job.suite_digest: load_suite(Path(job.suite_path)) for job in jobs}
        for job in jobs:
            if suites[job.suite_digest].digest != job.suite_digest:
                raise EvidenceError(f"{job.suite_path} was changed while it was read", hint="run it again")
        try:
            async with asyncio.TaskGroup() as group:
                for setting in sorted(settings, key=lambda setting: setting.rung is None):
                    bench = _Bench(self, setting, settings[setting], suites)
                    group.create_task(bench.work(), name=setting.label)
        except BaseExceptionGroup as error:
            raise _first(error) from error


class _Bench:
    """One setting: set up once, asked all its suites, put away."""

    def __init__(
        self, session: Session, setting: Setting, jobs: Sequence[Job], suites: dict[str, Suite]
    ) -> None:
        self.session, self.setting, self.jobs, self.suites = session, setting, jobs, suites
        self.total = sum(len(suites[job.suite_digest].cases) for job in jobs)
        self.before = 0  # cases of the suites that are finished
        self.elsewhere = setting.threat is ThreatModel.GUARDED and session.shelf.subjects.served_elsewhere(
            setting.member
        )
        self.show("waiting")

    def show(
        self,
        state: State,
        detail: str = "",
        progress: Progress | None = None,
        so_far: Callable[[], str] | None = None,
    ) -> None:
        """Tell how far the setting is; the rate is that of the suite at hand."""
        done = self.before + (progress.done if progress else 0)
        rate = progress.rate if progress else 0.0
        self.session.tell(
            Step(
                setting=self.setting.label,
                state=state,
                detail=detail,
                done=done,
                total=self.total,
                rate=rate,
                seconds_left=(self.total - done) / rate if rate > 0 else None,
                after_attack=self.setting.rung is not None,
                so_far=so_far,
            )
        )

    def show_suite(self, job: Job, progress: Progress) -> None:
        """Tell how far a suite is, and what it has come to."""
        told = partial(verdict_so_far, job, progress.tally, self.session.policies)
        self.show("asking", job.suite, progress, told)

    def show_attack(self, line: Line) -> None:
        """Tell how far the attack is, in steps."""
        rate = line.step / line.seconds if line.seconds > 0 else 0.0
        if rate > 0:
            self.session.pace.attack(self.setting, 1 / rate)
        self.session.tell(
            Step(
                setting=self.setting.label,
                state="attacking",
                detail="looks for the direction" if math.isnan(line.loss) else f"loss {line.loss:.2f}",
                done=line.step,
                total=line.steps,
                rate=rate,
                seconds_left=(line.steps - line.step) / rate if rate > 0 else None,
                after_attack=True,
            )
        )

    async def work(self) -> None:
        """Measure, or note for each job that is left why not."""
        try:
            path = await self.weights()
            async with self.threads() as threads, self.engine(path, threads) as engine:
                for job in self.jobs:
                    await self.measure(job, engine)
            reasons = [self.session.reasons[job] for job in self.jobs if job in self.session.reasons]
            self.show("failed" if reasons else "done", reasons[0] if reasons else "")
        except (EngineError, WeightsError) as error:
            for job in self.jobs:
                if job not in self.session.fresh:
                    self.session.reasons.setdefault(job, error.message)
            self.show("failed", error.message)

    @asynccontextmanager
    async def threads(self) -> AsyncIterator[int]:
        """The cores to answer on: half of them, and none for a model that is served elsewhere."""
        if self.elsewhere:
            yield 1
            return
        cores = self.session.cores
        async with cores.take(max(1, cores.total // 2)) as threads:
            yield threads

    async def weights(self) -> Path | None:
        """The weights to measure: as they lie, or attacked; null for a member that is served elsewhere."""
        at, session = self.setting, self.session
        if self.elsewhere:
            return None
        found = session.shelf.subjects.bytes_of(at.member, at.variant)
        if found.path is None or found.digest is None:
            raise WeightsError(found.reason or "its weights are not here")
        if at.rung is None:
            return found.path
        if (reason := why_unattackable(session.loaded, at.member, at.variant)) is not None:
            raise WeightsError(reason)
        attack_set, refused = attack_set_paths(session.policies, at.rung)
        lock = session._attacks.setdefault((found.digest, msgspec.json.encode(at.rung).hex()), asyncio.Lock())
        async with lock, session.cores.take(1):  # two variants with the same bytes are attacked once
            self.show("attacking", "starts")
            attacked = await session.laboratory.attack(
                found.path, found.digest, at.rung, attack_set, refused, self.show_attack
            )
        self.show("waiting")  # for cores to answer on
        return attacked

    @asynccontextmanager
    async def engine(self, path: Path | None, threads: int) -> AsyncIterator[Engine]:
        """The model as the threat reaches it: behind its guard, at its URL, or bare."""
        laboratory, loaded, at = self.session.laboratory, self.session.loaded, self.setting
        self.show("loading")
        member = self.session.shelf.subjects.members.get(at.member)
        if path is None:
            assert member is not None
            inner = await laboratory.reach(member)
        else:
            inner = await laboratory.open(path, threads)
        try:
            if at.threat is ThreatModel.GUARDED and member is not None:
                yield laboratory.behind_guard(inner, loaded, member)
            else:
                yield BelowGuard(inner)
        finally:
            await inner.close()

    async def measure(self, job: Job, engine: Engine) -> None:
        """Ask one suite; sign and store what came out, unless too much is missing to conclude anything."""
        session, suite = self.session, self.suites[job.suite_digest]
        subject, conditions = self.subject(), self.conditions(job, engine)
        evidence = Evidence(
            subject=subject, conditions=conditions, outcomes=(), made_at=now(), code_version=__version__
        )
        name = evidence.address.removeprefix("sha256:")
        path = session.cache / "checkpoints" / f"{name}.jsonl"
        with Checkpoint(path, f"{evidence.address} {__version__}", len(suite.cases)) as checkpoint:
            kept, started = checkpoint.finished, time.monotonic()
            tally = await run_cases(
                engine,
                suite.cases,
                checkpoint,
                score=session.laboratory.score,
                sampling=conditions.sampling,
                seed=conditions.seed,
                concurrency=session.concurrency if self.elsewhere else CONCURRENCY,
                progress=lambda progress: self.show_suite(job, progress),
                patience=session.patience,
            )
            self.before += len(suite.cases)
            if tally.done > kept:
                session.pace.cases(self.setting, (time.monotonic() - started) / (tally.done - kept))
            reason = tally.why_worthless(session.max_missing) or await self.changed()
            if reason is not None:
                session.reasons[job] = reason
                return
            # one JSON document is signed as a whole: here, and nowhere in the run, memory grows with the suite
            evidence = msgspec.structs.replace(
                evidence, outcomes=tuple(map(_without_words, checkpoint.outcomes())), made_at=now()
            )
            await session.store.put(evidence, session.signer)
            append_evidence(session.store.folder.parent, evidence, session.signer)
            checkpoint.remove()
        session.shelf.add(evidence)
        session.fresh.add(job)

    def subject(self) -> Subject:
        at, subjects = self.setting, self.session.shelf.subjects
        named = subjects.target_commitment if self.elsewhere else subjects.weights_commitment
        commitment = named(at.member, at.variant, make=True)
        assert commitment is not None
        return Subject(
            family=self.session.loaded.family.family,
            member=at.member,
            variant=at.variant,
            commitment=commitment,
        )

    def conditions(self, job: Job, engine: Engine) -> Conditions:
        at = self.setting
        guarded = at.threat is ThreatModel.GUARDED
        subjects = self.session.shelf.subjects
        return Conditions(
            suite=job.suite,
            suite_digest=job.suite_digest,
            threat=at.threat,
            rung=None if at.rung is None else subjects.as_run(at.rung, make=True),
            serve=subjects.serve_commitment(at.member, make=True) if guarded else None,
            engine=engine.info.name,
            engine_version=engine.info.version,
            sampling=Sampling(
                max_tokens=max(case.max_tokens for case in self.suites[job.suite_digest].cases)
            ),
        )

    async def changed(self) -> str | None:
        """What is no longer as it was when it was digested: evidence may only name the bytes that answered."""
        at, session = self.setting, self.session
        subjects, digests = session.shelf.subjects, session.cache / DIGESTS
        if at.threat is ThreatModel.GUARDED and at.member in subjects.members:
            if serve_digest(session.loaded, subjects.members[at.member]) != subjects.serve_digest(at.member):
                return "its system prompt or guard was changed while it was measured: run it again"
            if subjects.served_elsewhere(at.member):
                return None
        held = subjects.bytes_of(at.member, at.variant)
        if held.path is None or await asyncio.to_thread(variant_digest, held.path, digests) != held.digest:
            return "its weights were changed while they were measured: run it again"
        if (
            at.rung is not None
            and digest_file(attack_set_paths(session.policies, at.rung)[0]) != at.rung.attack_set
        ):
            return "the attack set was changed while it was used: run it again"
        return None


def _without_words(outcome: Outcome) -> Outcome:
    """An outcome as others may read it: of an error only its kind, since words may name addresses of this house."""
    kind = None if outcome.error is None else outcome.error.partition(":")[0]
    return msgspec.structs.replace(outcome, error=kind)


def now() -> str:
    """This moment, RFC 3339 in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _first(error: BaseException) -> BaseException:
    """The one fault to show of several that came at once: ours before others."""
    while isinstance(error, BaseExceptionGroup):
        ours = [each for each in error.exceptions if isinstance(each, DutchdoorError | BaseExceptionGroup)]
        error = (ours or list(error.exceptions))[0]
    return error
