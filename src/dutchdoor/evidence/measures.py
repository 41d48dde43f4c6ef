"""Outcomes into measures: a value with a bound on each side, what is missing counted against the claim.

`upper` is for claims that something is low, `lower` for claims that it is high; each fills missing scores
with what is worst for its own claim. Decides nothing, and knows no rule: `dutchdoor.policy` compares a
bound with its own.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from dutchdoor import stats
from dutchdoor.core import EvidenceError
from dutchdoor.evidence.record import Evidence, Outcome

What = Literal["correct", "refused"]
Cases = Evidence | Sequence[Outcome]  # bare outcomes where there is no evidence: a comparison with a URL

MAX_MISSING = 0.02  # facts/vetting.md, 8: more than this on either side and nothing is concluded


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule is judged by. A `because` means inconclusive, whatever the bounds say.

    Rates and differences are fractions. `value` is over what was scored on both sides and decides nothing;
    `upper` may be infinite (a ratio to nothing). `n` and `missing` count items, or pairs where two models
    are compared.
    """

    value: float | None
    lower: float
    upper: float
    n: int
    missing: int
    clusters: int | None
    method: str
    confidence: float
    because: str | None = None


def rate(
    evidence: Cases,
    what: What,
    *,
    confidence: float = stats.CONFIDENCE,
    max_missing: float = MAX_MISSING,
) -> Measure:
    """The fraction of cases that came out `correct`, or were `refused`."""
    outcomes = _by_id(evidence)
    scores = [getattr(outcome, what) for outcome in outcomes.values()]
    clusters = [outcome.cluster for outcome in outcomes.values()]
    pessimist = stats.rate([score is not False for score in scores], clusters, confidence)  # missing = 1
    optimist = stats.rate([score is True for score in scores], clusters, confidence)  # missing = 0
    scored = [score for score in scores if score is not None]
    missing = len(scores) - len(scored)
    return Measure(
        value=sum(scored) / len(scored) if scored else None,
        lower=optimist.lower,
        upper=pessimist.upper,
        n=len(scores),
        missing=missing,
        clusters=pessimist.clusters,
        method=pessimist.method,
        confidence=confidence,
        because=_too_little([(_whose(evidence, "the model"), missing)], len(scores), max_missing),
    )


def difference(
    candidate: Cases,
    baseline: Cases,
    what: What,
    *,
    confidence: float = stats.CONFIDENCE,
    max_missing: float = MAX_MISSING,
) -> Measure:
    """The candidate's rate minus the baseline's over the same cases; an id only one side has is missing."""
    return _compare(
        candidate, baseline, what, confidence, max_missing, stats.paired_difference, worst=(-1.0, 1.0)
    )


def ratio(
    candidate: Cases,
    baseline: Cases,
    what: What,
    *,
    confidence: float = stats.CONFIDENCE,
    max_missing: float = MAX_MISSING,
) -> Measure:
    """The candidate's rate over the baseline's; infinite upwards where the baseline's is not clear of 0."""
    return _compare(
        candidate, baseline, what, confidence, max_missing, stats.paired_ratio, worst=(0.0, math.inf)
    )


Paired = Callable[[Sequence[bool], Sequence[bool], Sequence[str | None], float], stats.Bounds]


def _compare(
    candidate: Cases,
    baseline: Cases,
    what: What,
    confidence: float,
    max_missing: float,
    bounds: Paired,
    worst: tuple[float, float],
) -> Measure:
    ours, theirs = _by_id(candidate), _by_id(baseline)
    ids = list(dict.fromkeys([*ours, *theirs]))
    a = [_score(ours, id, what) for id in ids]
    b = [_score(theirs, id, what) for id in ids]
    clusters = [(ours.get(id) or theirs[id]).cluster for id in ids]
    high = bounds([x is not False for x in a], [y is True for y in b], clusters, confidence)
    low = bounds([x is True for x in a], [y is not False for y in b], clusters, confidence)
    complete = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    seen = bounds([x for x, _ in complete], [y for _, y in complete], [None] * len(complete), confidence)
    because = _mismatch(candidate, baseline, ours, theirs) or _too_little(
        [
            (_whose(candidate, "the candidate"), a.count(None)),
            (_whose(baseline, "the baseline"), b.count(None)),
        ],
        len(ids),
        max_missing,
    )
    return Measure(
        value=seen.value,
        lower=max(worst[0], low.lower),
        upper=min(worst[1], high.upper),
        n=len(ids),
        missing=len(ids) - len(complete),
        clusters=high.clusters,
        method=high.method,
        confidence=confidence,
        because=because,
    )


def _by_id(cases: Cases) -> dict[str, Outcome]:
    rows = cases.outcomes if isinstance(cases, Evidence) else cases
    outcomes = {outcome.id: outcome for outcome in rows}
    if len(outcomes) != len(rows):  # a case counted twice would weigh twice
        raise EvidenceError(f"{_whose(cases, 'a model')}: a case came out twice")
    return outcomes


def _whose(cases: Cases, otherwise: str) -> str:
    return cases.subject.member if isinstance(cases, Evidence) else otherwise


def _score(outcomes: dict[str, Outcome], id: str, what: What) -> bool | None:
    outcome = outcomes.get(id)
    score: bool | None = None if outcome is None else getattr(outcome, what)
    return score


def _mismatch(
    candidate: Cases, baseline: Cases, ours: dict[str, Outcome], theirs: dict[str, Outcome]
) -> str | None:
    if (
        isinstance(candidate, Evidence)
        and isinstance(baseline, Evidence)
        and candidate.conditions.suite_digest != baseline.conditions.suite_digest
    ):
        return "the two sides were measured on different versions of the suite"
    if any(ours[id].cluster != theirs[id].cluster for id in ours.keys() & theirs.keys()):
        return "the two sides disagree about which cases share a source"
    return None


def _too_little(sides: Iterable[tuple[str, int]], n: int, max_missing: float) -> str | None:
    if n == 0:
        return "nothing was measured"
    for side, missing in sides:
        if missing > max_missing * n:
            return f"{missing} of {n} cases of {side} could not be scored (more than {max_missing:.0%})"
    return None
