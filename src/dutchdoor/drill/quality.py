"""From two sides' outcomes to the one verdict on quality.

Pure. The difference is A − B in the fraction answered correctly, paired case by case; the bounds are those of
`dutchdoor.evidence.measures`: Tango's score limits, clustered where cases share a source, missing cases
counted against the claim.
"""

from collections.abc import Sequence
from typing import Final, Literal

from dutchdoor.core import Verdict, VerdictKind
from dutchdoor.drill.report import Sample
from dutchdoor.evidence.measures import Measure, difference
from dutchdoor.evidence.record import Outcome

MEASURE: Final = "correct"
RULE = "not-worse"


def outcomes(samples: Sequence[Sample], side: Literal["A", "B"]) -> tuple[Outcome, ...]:
    """The outcomes of one side, in the form that measures are made of."""
    replies = [(sample, sample.a if side == "A" else sample.b) for sample in samples]
    return tuple(
        Outcome(id=sample.id, correct=reply.correct, refused=None, cluster=sample.cluster, error=reply.error)
        for sample, reply in replies
    )


def judge(samples: Sequence[Sample], *, margin: float | None, confidence: float) -> Verdict:
    """Whether A is worse than B by no more than `margin` (a fraction; null: an interval and no claim).

    Non-inferiority with one-sided bounds at `confidence` each: pass if lower(A − B) ≥ −margin, fail if
    upper(A − B) < −margin, else inconclusive. Too many missing cases are inconclusive, whatever the bounds.
    """
    measure = difference(outcomes(samples, "A"), outcomes(samples, "B"), MEASURE, confidence=confidence)
    kind, because = _decide(measure, margin)
    return Verdict(
        rule=None if margin is None else RULE,
        effect=None if margin is None else "gate",
        verdict=kind,
        measure=f"{MEASURE}.difference",
        value=measure.value,
        lower=measure.lower,
        upper=measure.upper,
        bound=None if margin is None else 0.0 - margin,
        confidence=confidence,
        method=measure.method,
        n=measure.n,
        missing=measure.missing,
        clusters=measure.clusters,
        because=because,
    )


def _decide(measure: Measure, margin: float | None) -> tuple[VerdictKind, str]:
    lower, upper = measure.lower, measure.upper
    if measure.because is not None:
        return VerdictKind.INCONCLUSIVE, measure.because
    if margin is None:
        return VerdictKind.INCONCLUSIVE, "no --margin was given, so nothing is claimed"
    if lower >= -margin:
        return VerdictKind.PASS, "even the lower bound of A − B is within the margin"
    if upper < -margin:
        return VerdictKind.FAIL, "even the upper bound of A − B is beyond the margin"
    return VerdictKind.INCONCLUSIVE, "the interval of A − B straddles the margin; more cases would narrow it"
