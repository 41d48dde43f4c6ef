"""Measure some signed cases again, on the weights in hand: do the outcomes agree with what was signed?

Asks a seeded sample of one suite, as evidence has it for weights that are neither attacked nor guarded. The
test: the share of the suite's cases that come out otherwise, with its exact one-sided 95 % bounds
(Clopper–Pearson; a sample without replacement makes them wider than need be). Agrees if the upper bound is at
or below the tolerance, does not if the lower bound is above it, else nobody can tell: each answer is wrong in at
most 5 %. Says nothing about attacks and guards, nor about cases that it did not draw.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from dutchdoor import stats
from dutchdoor.bundle.dossier import Dossier, Node
from dutchdoor.bundle.verify import Report
from dutchdoor.core import DutchdoorError, Exit, UsageError
from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import ChatRequest, Engine
from dutchdoor.evidence.measures import MAX_MISSING
from dutchdoor.evidence.record import Evidence, Outcome, Sampling
from dutchdoor.vetting.cores import cores_here
from dutchdoor.vetting.laboratory import Laboratory
from dutchdoor.vetting.suites import Case, load_suite

TOLERANCE = 0.05  # greedy answers of another machine or engine version differ in a few cases of a hundred
Answer = Literal["agrees", "differs", "cannot-tell"]
CODES: dict[Answer, Exit] = {
    "agrees": Exit.CLEAN,
    "cannot-tell": Exit.INCONCLUSIVE,
    "differs": Exit.AGAINST,
}


class Rerun(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. `lower` and `upper` bound the share of cases that come out otherwise."""

    verdict: Answer
    because: str
    suite: str | None = None
    variant: str | None = None
    n: int = 0
    differ: int = 0
    missing: int = 0
    lower: float = 0.0
    upper: float = 1.0
    tolerance: float = TOLERANCE
    seed: int = 0
    constant: float | None = None  # the share of signed outcomes that one and the same answer would have met
    ids: tuple[str, ...] = ()  # of the cases that came out otherwise


def needed(tolerance: float) -> int:
    """How many cases it takes to agree when none comes out otherwise."""
    n = 1
    while stats.clopper_pearson_upper(0, n) > tolerance:
        n += 1
    return n


async def rerun(
    report: Report,
    suite_path: Path,
    n: int,
    laboratory: Laboratory,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> Rerun:
    """Measure `n` cases of a suite again on a bundle that was verified.

    Raises UsageError for less than one case, DocumentError for a broken suite, EngineError when the weights
    can't be loaded.
    """
    if n < 1:
        raise UsageError(f"--rerun {n}: nothing would be measured", hint=f"{needed(tolerance)} or more")
    dossier = report.dossier
    if dossier is None or report.findings:
        return Rerun(
            verdict="cannot-tell",
            because="the bundle does not hold: its weights are not those that were signed",
        )
    suite = load_suite(suite_path)
    found = _signed(dossier, suite.digest)
    if found is None:
        return Rerun(
            verdict="cannot-tell",
            because=f"no evidence of these weights, neither attacked nor guarded, is on the suite {suite.digest}",
        )
    node, evidence = found
    scored = {
        each.id: each for each in evidence.outcomes if each.correct is not None or each.refused is not None
    }
    cases = [each for each in suite.cases if each.id in scored]
    drawn = random.Random(seed).sample(cases, min(n, len(cases)))  # noqa: S311 — a draw that anybody can repeat
    async with laboratory:
        engine = await laboratory.open(_place(report.folder, node), cores_here())
        try:
            came_out = [await _ask(engine, laboratory, case, evidence.conditions.sampling) for case in drawn]
        finally:
            await engine.close()
    return _judged(evidence, scored, came_out, node.variant, seed, tolerance)


def _signed(dossier: Dossier, suite_digest: str) -> tuple[Node, Evidence] | None:
    """A variant that is in the bundle, with its newest evidence on this suite as the weights are."""
    for node in dossier.tree.nodes:
        if node.variant is None or node.files is None or node.member != dossier.member:
            continue
        fitting = [
            held.evidence
            for held in dossier.evidence
            if (held.evidence.subject.member, held.evidence.subject.variant) == (node.member, node.variant)
            and held.evidence.conditions.suite_digest == suite_digest
            and held.evidence.conditions.rung is None
            and held.evidence.conditions.serve is None
        ]
        if fitting:
            return node, max(fitting, key=lambda each: (each.made_at, each.address))
    return None


def _place(folder: Path, node: Node) -> Path:
    place = folder / (node.at or "")
    single = next((name for name in node.files or () if name.endswith(".gguf")), None)
    return place / single if single else place


async def _ask(engine: Engine, laboratory: Laboratory, case: Case, sampling: Sampling) -> Outcome:
    """One case as vetting asks it; what can't be answered or scored is missing."""
    request = ChatRequest(
        messages=case.conversation(),
        max_tokens=case.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
    try:
        judged = await laboratory.score(case, (await ask(engine, request)).text)
    except DutchdoorError as error:
        return Outcome(id=case.id, correct=None, refused=None, error=type(error).__name__)
    return Outcome(id=case.id, correct=judged.correct, refused=judged.refused)


def _judged(
    evidence: Evidence,
    signed: dict[str, Outcome],
    came_out: list[Outcome],
    variant: str | None,
    seed: int,
    tolerance: float,
) -> Rerun:
    answered = [each for each in came_out if each.correct is not None or each.refused is not None]
    missing, n = len(came_out) - len(answered), len(answered)
    otherwise = [each.id for each in answered if _pair(each) != _pair(signed[each.id])]
    lower = stats.clopper_pearson_lower(len(otherwise), n) if n else 0.0
    upper = stats.clopper_pearson_upper(len(otherwise), n) if n else 1.0
    common = Counter(_pair(each) for each in signed.values()).most_common(1)[0][1] / len(signed)
    verdict: Answer = "cannot-tell"
    if missing > MAX_MISSING * len(came_out):
        because = f"{missing} of {len(came_out)} cases could not be answered or scored"
    elif lower > tolerance:
        verdict, because = (
            "differs",
            f"more than {tolerance:.0%} of the cases come out otherwise than was signed",
        )
    elif upper <= tolerance:
        verdict, because = (
            "agrees",
            f"at most {tolerance:.0%} of the cases come out otherwise than was signed",
        )
    else:
        because = (
            f"with {len(otherwise)} of {n} cases otherwise, the share may be on either side of {tolerance:.0%}:"
            f" measure more (at least {needed(tolerance)})"
        )
    return Rerun(
        verdict=verdict,
        because=because,
        suite=evidence.conditions.suite,
        variant=variant,
        n=n,
        differ=len(otherwise),
        missing=missing,
        lower=lower,
        upper=upper,
        tolerance=tolerance,
        seed=seed,
        constant=common,
        ids=tuple(otherwise),
    )


def _pair(outcome: Outcome) -> tuple[bool | None, bool | None]:
    return outcome.correct, outcome.refused
