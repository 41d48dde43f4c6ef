"""Puts another tool's outcomes into the evidence store: held against the suite, signed by whoever imports.

Stores nothing where more is missing than the policies allow, as `vetting.vet` does. Asks no model.
"""

import datetime
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from dutchdoor import __version__
from dutchdoor.core import DutchdoorError, EvidenceError
from dutchdoor.evidence import dsse
from dutchdoor.evidence.measures import MAX_MISSING
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Sampling
from dutchdoor.evidence.release_log import append_evidence
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey, read_public
from dutchdoor.evidence.store import PAYLOAD_TYPE, EvidenceStore, Salts
from dutchdoor.evidence.subjects import Subjects, identify
from dutchdoor.family.load import LoadedFamily
from dutchdoor.policy.rules import LoadedPolicy
from dutchdoor.vetting.cores import cores_here
from dutchdoor.vetting.formats.log import Field, Log
from dutchdoor.vetting.imported import UNSCORED, By, Judge, matched, meaning, outcomes, stated
from dutchdoor.vetting.place import Place, subject_of
from dutchdoor.vetting.runner import Judged
from dutchdoor.vetting.sandbox import CodeSandbox
from dutchdoor.vetting.scorers import score, score_code
from dutchdoor.vetting.suites import Case, load_suite


class How(msgspec.Struct, frozen=True, kw_only=True):
    """How a log is read: which sample is which case, and which score means what."""

    by: By = "both"
    epoch: int | None = None
    correct: Field | None = None
    refused: Field | None = None
    at_least: float | None = None
    rescore: bool = False  # by the suite's own scorers, on the answers in the log
    made_at: str | None = None  # of the outcomes, where the log does not say


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `reason`: why nothing was stored."""

    address: str
    evidence: Evidence
    notes: tuple[str, ...]
    reason: str | None = None

    @property
    def missing(self) -> int:
        return sum(_is_missing(each) for each in self.evidence.outcomes)


def _is_missing(outcome: Outcome) -> bool:
    return outcome.correct is None and outcome.refused is None


async def import_log(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    store: EvidenceStore,
    signer: SigningKey,
    place: Place,
    log: Log,
    how: How,
) -> Imported:
    """Hold a log against the suite, sign what came out, and store it unless too much is missing.

    Raises DocumentError where log and suite do not fit, WeightsError where there are no bytes to name.
    """
    data = store.folder.parent
    suite = load_suite(place.suite_path)
    if suite.digest != place.suite_digest:
        raise EvidenceError(f"{place.suite_path} was changed while it was read", hint="run it again")
    found = matched(log, suite, by=how.by, epoch=how.epoch)
    async with AsyncExitStack() as stack:
        judge = await _judge(stack) if how.rescore else None
        means = (
            None
            if how.rescore or not log.samples  # then every case is missing, and nothing is stored
            else meaning(log, suite, correct=how.correct, refused=how.refused, at_least=how.at_least)
        )
        came_out = await outcomes(suite, found, means, judge)
    made_at, notes = _made_at(log, how)
    subjects = await identify(loaded, Salts(data / "salts"), data / "cache")
    most = [case.max_tokens for case in suite.cases]
    evidence = Evidence(
        subject=subject_of(subjects, place),
        conditions=_conditions(subjects, place, log, max(most)),
        outcomes=came_out,
        made_at=made_at,
        code_version=__version__,
    )
    allowed = max([rule.max_missing for each in policies for rule in each.policy.rules], default=MAX_MISSING)
    reason = too_much_missing(came_out, allowed)
    if reason is None:
        await store.put(evidence, signer)
        append_evidence(data, evidence, signer)
    return Imported(address=evidence.address, evidence=evidence, notes=(*log.notes, *notes), reason=reason)


def too_much_missing(came_out: Sequence[Outcome], most: float) -> str | None:
    """Why outcomes are not worth storing, else null: what is not stored can still be measured or imported."""
    lost = [each.error or UNSCORED for each in came_out if _is_missing(each)]
    if len(lost) <= most * len(came_out):
        return None
    commonest = max(set(lost), key=lost.count)
    return f"{len(lost)} of {len(came_out)} cases could not be measured; most often: {commonest}"


def _conditions(subjects: Subjects, place: Place, log: Log, max_tokens: int) -> Conditions:
    engine, version = stated(log)
    guarded = place.threat.value == "guarded"
    return Conditions(
        suite=place.suite,
        suite_digest=place.suite_digest,
        threat=place.threat,
        rung=None if place.rung is None else subjects.as_run(place.rung, make=True),
        serve=subjects.serve_commitment(place.member, make=True) if guarded else None,
        engine=engine,
        engine_version=version,
        sampling=Sampling(
            temperature=log.temperature or 0.0,  # where it is not stated, `engine_version` says so
            top_p=1.0 if log.top_p is None else log.top_p,
            max_tokens=log.max_tokens or max_tokens,
        ),
        seed=log.seed or 0,
    )


def _made_at(log: Log, how: How) -> tuple[str, tuple[str, ...]]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    told = how.made_at or log.made_at
    if told is None:
        return now, ("the log does not say when it was made, so it counts as of now (--made-at DATE)",)
    if told > now:
        raise EvidenceError(f"the outcomes are dated {told}, which is in the future")
    return told, ()


async def _judge(stack: AsyncExitStack) -> Judge:
    sandbox = await stack.enter_async_context(CodeSandbox(workers=cores_here()))

    async def judge(case: Case, answer: str) -> Judged:
        if case.scorer == "code":
            return await score_code(sandbox, case.target, answer)
        return score(case.scorer, case.target, case.choices, answer)

    return judge


async def add_signed(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    store: EvidenceStore,
    envelope: bytes,
    keys: Sequence[PublicKey],
) -> tuple[Evidence, str]:
    """Keep evidence that somebody else signed, as theirs; the evidence and the id of their key.

    Raises EvidenceError when the signature of none of `keys` holds, or when it is about another family or
    about bytes that are not here.
    """
    checked = dsse.check(envelope, keys, payload_type=PAYLOAD_TYPE)
    if not checked.verified:
        raise EvidenceError(
            f"it is signed by {checked.key_id}, a key that is not known here",
            hint="--key KEYFILE names the evaluator's public key",
        )
    try:
        evidence = msgspec.json.decode(checked.payload, type=Evidence)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EvidenceError(f"what is signed is no evidence: {error}") from error
    data = store.folder.parent
    subjects = await identify(loaded, Salts(data / "salts"), data / "cache")
    _check_subject(subjects, evidence)
    _check_suite(policies, evidence)
    await store.keep(envelope, keys)
    return evidence, checked.key_id


def _check_subject(subjects: Subjects, evidence: Evidence) -> None:
    of, family = evidence.subject, subjects.loaded.family.family
    if of.family != family:
        raise EvidenceError(f"it is about the family {of.family!r}, and this is {family!r}")
    known = {
        subjects.weights_commitment(of.member, of.variant),
        subjects.target_commitment(of.member, of.variant),
    }
    if of.commitment not in known:
        raise EvidenceError(
            f"it is about other bytes than {of.member}/{of.variant} as it lies here",
            hint="bytes are named with this family's salts: the evaluator needs a copy of `salts/`"
            " in their data folder when they sign",
        )


def _check_suite(policies: Sequence[LoadedPolicy], evidence: Evidence) -> None:
    """Evidence on a suite that no policy has is kept for `attested_by`; on one of theirs it must fit."""
    asked = evidence.conditions
    for each in policies:
        if each.digests.get(asked.suite) == asked.suite_digest:
            ids = {case.id for case in load_suite(each.suite_path(asked.suite)).cases}
            strange = [outcome.id for outcome in evidence.outcomes if outcome.id not in ids]
            if strange:
                raise EvidenceError(f"it has outcomes of no case of {asked.suite}: {strange[:5]}")


def keys_of(policies: Sequence[LoadedPolicy]) -> tuple[PublicKey, ...]:
    """The keys that rules name with `attested_by`; one that can't be read is left out here and closes there."""
    found: list[PublicKey] = []
    for each in policies:
        for rule in each.policy.rules:
            path = None if rule.attested_by is None else each.key_path(rule.attested_by)
            if path is not None:
                try:
                    found.append(read_public(Path(path)))
                except DutchdoorError:  # `decide` says what is wrong with it
                    continue
    return tuple(found)
