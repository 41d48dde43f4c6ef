"""The gate on scores from anywhere: two sides' scores and a bound in, one verdict out.

Pure. The rules are those of facts that a policy is judged by: bounds decide and never a point estimate, a missing
score takes the value that is worst for the verdict claimed, too many of them conclude nothing. The statistics
are `dutchdoor.stats`, the reading is `dutchdoor.evidence.scored`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from dutchdoor import stats
from dutchdoor.core import EvidenceError, Verdict, VerdictKind
from dutchdoor.evidence.measures import MAX_MISSING
from dutchdoor.evidence.scored import Label, Scores, Side

Score = bool | None

NAMED = 3  # ids that a message names; the others are counted
STRADDLES = "the interval holds the bound: more items would narrow it"
UNDECIDED = "the sequential test went through all items without an end: more items would bring one"
DIFFERENCE, RATE = "difference", "rate"


class GateVerdict(Verdict, frozen=True, kw_only=True):
    """The verdict of every command, and where a sequential test stopped: after so many items; else null."""

    stopped_at: int | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What is claimed. `bound` is of candidate − baseline, or of the rate: a fraction, with its sign."""

    bound: float
    higher_is_better: bool = False  # pass at or above the bound instead of at or below it
    confidence: float = stats.CONFIDENCE  # of each bound, one-sided
    max_missing: float = MAX_MISSING  # a fraction of each side
    sequential_seed: int | None = None  # of the order in which the items are looked at; null: all at once


@dataclass(frozen=True)
class _Items:
    """The items of both files in one order; `baseline` is null where a rate is judged by itself."""

    candidate: list[Score]
    baseline: list[Score] | None
    clusters: list[str | None] | None

    def __len__(self) -> int:
        return len(self.candidate)

    @property
    def sides(self) -> list[list[Score]]:
        return [self.candidate] if self.baseline is None else [self.candidate, self.baseline]

    def filled(self, *, high: bool) -> "tuple[list[bool], list[bool]]":
        """The scores with what is missing set so that the value comes out as high, or as low, as it can."""
        first = [high if x is None else x for x in self.candidate]
        return first, [not high if y is None else y for y in self.baseline or ()]

    def chosen(self, order: Iterable[int]) -> "_Items":
        order = list(order)
        return _Items(
            [self.candidate[i] for i in order],
            None if self.baseline is None else [self.baseline[i] for i in order],
            None if self.clusters is None else [self.clusters[i] for i in order],
        )

    def complete(self) -> "_Items":
        return self.chosen(i for i in range(len(self)) if all(side[i] is not None for side in self.sides))

    def inverted(self) -> "_Items":
        candidate, *rest = [[None if x is None else not x for x in side] for side in self.sides]
        return _Items(candidate, rest[0] if rest else None, self.clusters)


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the statistics say. A `because` means inconclusive, whatever the bounds are."""

    verdict: VerdictKind
    value: float | None
    lower: float
    upper: float
    method: str
    clusters: int | None
    because: str | None = None
    stopped_at: int | None = None


def judge_difference(
    candidate: Scores, baseline: Scores, terms: Terms, labels: Sequence[Label] | None = None
) -> GateVerdict:
    """Whether the candidate's rate minus the baseline's, over the same items, is within `terms.bound`.

    An id that only one file has is missing on the other side. With `labels` the scores are a judge's opinions,
    and both rates are corrected for its errors. Raises EvidenceError where the files contradict each other.
    """
    both = candidate.index.keys() & baseline.index.keys()
    _refuse_other_clusters(candidate, baseline, both)
    ids = sorted(candidate.index.keys() | baseline.index.keys())  # the order of the files must decide nothing
    home = [candidate if id in candidate.index else baseline for id in ids]
    items = _Items(
        [candidate.score(id) for id in ids],
        [baseline.score(id) for id in ids],
        None
        if candidate.clusters is None
        else [scores.cluster(id) for id, scores in zip(ids, home, strict=True)],
    )
    notes = [
        _unpaired(sorted(here.index.keys() - there.index.keys()), here)
        for here, there in ((candidate, baseline), (baseline, candidate))
        if len(here) > len(both)
    ]
    empty = [each.name for each in (candidate, baseline) if not len(each)]
    return _judge(
        DIFFERENCE, items, {"candidate": candidate, "baseline": baseline}, terms, labels, notes, empty
    )


def judge_rate(candidate: Scores, terms: Terms, labels: Sequence[Label] | None = None) -> GateVerdict:
    """Whether the candidate's rate itself is within `terms.bound`; else as `judge_difference`."""
    ids = sorted(candidate.index)
    items = _Items(
        [candidate.score(id) for id in ids],
        None,
        None if candidate.clusters is None else [candidate.cluster(id) for id in ids],
    )
    empty = [] if len(candidate) else [candidate.name]
    return _judge(RATE, items, {"candidate": candidate}, terms, labels, [], empty)


def _judge(
    measure: str,
    items: _Items,
    sides: dict[Side, Scores],
    terms: Terms,
    labels: Sequence[Label] | None,
    notes: list[str],
    empty: list[str],
) -> GateVerdict:
    gold = None if labels is None else {side: _gold(side, scores, labels) for side, scores in sides.items()}
    if labels is not None:
        _refuse_strangers(labels, sides)
    start = GateVerdict(
        verdict=VerdictKind.INCONCLUSIVE,
        measure=measure,
        bound=terms.bound,
        confidence=terms.confidence,
        n=len(items),
        missing=len(items) - len(items.complete()),
    )
    if empty:
        because = (
            f"{' and '.join(empty)} {'holds' if len(empty) == 1 else 'hold'} no items: nothing was checked"
        )
        return msgspec.structs.replace(start, because=because)
    found = _found(items, terms, gold)
    reasons = [_too_little(items, terms), found.because]
    verdict, stopped_at = found.verdict, found.stopped_at
    if any(reasons):
        verdict, stopped_at = VerdictKind.INCONCLUSIVE, None
    elif verdict is VerdictKind.INCONCLUSIVE:
        reasons = [STRADDLES if terms.sequential_seed is None else UNDECIDED]
    return msgspec.structs.replace(
        start,
        verdict=verdict,
        value=found.value,
        lower=found.lower,
        upper=found.upper,
        method=found.method,
        clusters=found.clusters,
        stopped_at=stopped_at,
        because="; ".join(each for each in [*reasons, *notes] if each) or None,
    )


def _found(items: _Items, terms: Terms, gold: "dict[Side, _Gold] | None") -> _Found:
    if gold is not None:
        return _corrected(items, terms, gold)
    if terms.sequential_seed is not None:
        return _in_turn(items, terms, terms.sequential_seed)
    return _by_bounds(items, terms, _plain(terms))


def _plain(terms: Terms) -> "Callable[[_Items, bool], stats.Bounds]":
    def bounds(items: _Items, high: bool) -> stats.Bounds:
        candidate, baseline = items.filled(high=high)
        if items.baseline is None:
            return stats.rate(candidate, items.clusters, terms.confidence)
        return stats.paired_difference(candidate, baseline, items.clusters, terms.confidence)

    return bounds


def _corrected(items: _Items, terms: Terms, gold: dict[Side, "_Gold"]) -> _Found:
    """What the true rates behind a judge's opinions come to."""

    def bounds(items: _Items, high: bool) -> stats.Bounds:
        candidate, baseline = items.filled(high=high)
        ours = gold["candidate"].labels
        if items.baseline is None:
            return stats.judged_rate(candidate, ours, items.clusters, terms.confidence)
        theirs = gold["baseline"].labels
        return stats.judged_difference(candidate, baseline, ours, theirs, items.clusters, terms.confidence)

    found = _by_bounds(items, terms, bounds)
    faults = [each.fault for each in gold.values() if each.fault]
    if not faults and found.value is None and len(items.complete()):
        told = "; ".join(each.told for each in gold.values())
        faults = [f"too few gold labels, or a judge that may be no better than chance ({told})"]
    return msgspec.structs.replace(found, because="; ".join(faults) or None)


def _by_bounds(items: _Items, terms: Terms, bounds: "Callable[[_Items, bool], stats.Bounds]") -> _Found:
    complete = items.complete()
    high = bounds(items, True)
    low = high if len(complete) == len(items) else bounds(items, False)
    seen = high if len(complete) == len(items) else bounds(complete, True)
    if terms.higher_is_better:
        passes, fails = low.lower >= terms.bound, high.upper < terms.bound
    else:
        passes, fails = high.upper <= terms.bound, low.lower > terms.bound
    return _Found(
        verdict=VerdictKind.PASS if passes else VerdictKind.FAIL if fails else VerdictKind.INCONCLUSIVE,
        value=seen.value,
        lower=low.lower,
        upper=high.upper,
        method=high.method,
        clusters=high.clusters,
    )


def _in_turn(items: _Items, terms: Terms, seed: int) -> _Found:
    """The items in an order made by the seed, until a test crosses: one for the pass and one for the fail.

    Each has missing scores at their worst for its own claim. Where more is better, the test is about the
    complement: a rate of at least p is a rate of failures of at most 1 − p.
    """
    mirror = terms.higher_is_better
    end = 0.0 if items.baseline is not None else 1.0  # the complement of x is `end` − x
    asked = items.inverted() if mirror else items
    asked = asked.chosen(stats.shuffled(len(items), items.clusters, seed))
    bound = end - terms.bound if mirror else terms.bound
    passing = _look(asked, bound, terms.confidence, high=True)
    failing = (
        passing if len(asked.complete()) == len(asked) else _look(asked, bound, terms.confidence, high=False)
    )
    verdict, stopped_at = _first(passing, failing)
    looked = asked.chosen(range(stopped_at or len(asked))).complete()
    seen = _plain(terms)(looked.inverted() if mirror else looked, True)
    lower, upper = failing.lower, passing.upper
    return _Found(
        verdict=verdict,
        value=seen.value,
        lower=end - upper if mirror else lower,
        upper=end - lower if mirror else upper,
        method=f"{passing.method}, order of seed {seed}",
        clusters=failing.clusters if verdict is VerdictKind.FAIL else passing.clusters,
        stopped_at=stopped_at,
    )


def _look(items: _Items, bound: float, confidence: float, *, high: bool) -> stats.Sequential:
    candidate, baseline = items.filled(high=high)
    if items.baseline is None:
        return stats.sequential_rate(candidate, bound=bound, confidence=confidence, clusters=items.clusters)
    return stats.sequential_difference(
        candidate, baseline, bound=bound, confidence=confidence, clusters=items.clusters
    )


def _first(passing: stats.Sequential, failing: stats.Sequential) -> tuple[VerdictKind, int | None]:
    """Which of the two tests crossed first in its own direction. Both at the same item: nothing is told."""
    passed = passing.stopped_at if passing.verdict == "pass" else None
    failed = failing.stopped_at if failing.verdict == "fail" else None
    if passed is not None and (failed is None or passed < failed):
        return VerdictKind.PASS, passed
    if failed is not None and (passed is None or failed < passed):
        return VerdictKind.FAIL, failed
    return VerdictKind.INCONCLUSIVE, None


@dataclass(frozen=True)
class _Gold:
    """A side's labels as the statistics take them, and why they can't correct anything (else null)."""

    labels: stats.Gold
    told: str  # what they say of the judge
    fault: str | None


def _gold(side: Side, scores: Scores, labels: Sequence[Label]) -> _Gold:
    """What the judge said beside what is true. A label of an item that the judge left unscored says nothing."""
    pairs = [(scores.score(each.id), each.gold) for each in labels if each.side == side]
    known = [(said, truth) for said, truth in pairs if said is not None]
    gold = stats.Gold([said for said, _ in known], [truth for _, truth in known])
    fault = None
    if not known:
        fault = f"no gold labels for the {side}: what the judge errs there is not known"
    elif not gold.events or not gold.others:
        fault = f"all {len(known)} gold labels of the {side} are {int(known[0][1])}: both kinds are needed"
    told = f"{side}: right on {gold.found} of {gold.events} that are 1 and {gold.cleared} of {gold.others} that are 0"
    return _Gold(gold, told, fault)


def _refuse_strangers(labels: Sequence[Label], sides: dict[Side, Scores]) -> None:
    for each in labels:
        if each.side not in sides:
            raise EvidenceError(
                f"{each.place}: side: there is no baseline", hint="leave these labels out, or give --baseline"
            )
        if each.id not in sides[each.side].index:
            raise EvidenceError(
                f"{each.place}: id: {each.id!r} is not in {sides[each.side].name}",
                hint="label items that the judge scored on the same side",
            )


def _refuse_other_clusters(candidate: Scores, baseline: Scores, both: Iterable[str]) -> None:
    if candidate.clusters is None:
        return
    for id in sorted(both):
        ours, theirs = candidate.cluster(id), baseline.cluster(id)
        if ours != theirs:
            raise EvidenceError(
                f"{baseline.place(id)}: item {id!r} is of cluster {theirs!r}, in {candidate.place(id)} of {ours!r}",
                hint="an item shares its source with the same others in both files",
            )


def _too_little(items: _Items, terms: Terms) -> str | None:
    n = len(items)
    for side, scores in zip(("candidate", "baseline"), items.sides, strict=False):
        missing = scores.count(None)
        if missing / n > terms.max_missing:
            return f"{missing} of {n} items have no score of the {side} (more than {terms.max_missing:.3g})"
    return None


def _unpaired(ids: list[str], scores: Scores) -> str:
    shown = ", ".join(f"{id[:40]}…" if len(id) > 40 else id for id in ids[:NAMED])
    more = ", …" if len(ids) > NAMED else ""
    return f"{len(ids)} {'items are' if len(ids) > 1 else 'item is'} only in {scores.name}: {shown}{more}"
