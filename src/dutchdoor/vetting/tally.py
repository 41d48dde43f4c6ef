"""What a run has come to so far, in numbers that do not grow with it: counts, reasons, and what interval that gives.

Shown while a run goes on, and asked at its end whether the outcomes are worth storing. Judges no rule.
"""

from collections import Counter

import msgspec

from dutchdoor.evidence.measures import MAX_MISSING
from dutchdoor.evidence.record import Outcome

MOST_EMPTY = (
    0.1  # of all answers: one empty answer is an answer, a suite of them measures the way and not the model
)
MOST_REASONS = 64  # different ones that are counted apart
OTHER = "other reasons"


class SoFar(msgspec.Struct, frozen=True, kw_only=True):
    """A rate over the cases done, with the bounds that it would have were these all. Fractions."""

    value: float | None
    lower: float
    upper: float
    done: int


class Tally:
    """Counts of one run. What grows: the names of clusters, where cases have any."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = self.missing = self.empty = 0
        self.events = {"correct": 0, "refused": 0}
        self.unknown = {"correct": 0, "refused": 0}  # without this score, missing or not
        self.reasons: Counter[str] = Counter()
        self.given_up: str | None = None  # why the rest was not asked
        self._clusters: Counter[str] = Counter()
        self._squares = 0  # the sum of the squared sizes of clusters

    def count(self, outcome: Outcome, *, empty: bool = False) -> None:
        """Take in what a case came to."""
        self.done += 1
        self.empty += empty
        for name, score in (("correct", outcome.correct), ("refused", outcome.refused)):
            self.events[name] += score is True
            self.unknown[name] += score is None
        if outcome.correct is None and outcome.refused is None:
            self.missing += 1
            reason = outcome.error or "no reason was given"
            known = reason in self.reasons or len(self.reasons) < MOST_REASONS
            self.reasons[reason if known else OTHER] += 1
        before = 0
        if outcome.cluster is not None:
            before = self._clusters[outcome.cluster]
            self._clusters[outcome.cluster] += 1
        self._squares += 2 * before + 1

    def so_far(self, what: str, confidence: float = 0.95) -> SoFar:
        """The rate of `correct` or `refused` now. Clopper–Pearson, clustered and missing cases as `stats.rate` and
        `evidence.measures` take them; looking at it while cases come in is no test.
        """
        from dutchdoor import stats

        n, events, unknown = self.done, self.events[what], self.unknown[what]
        if n == 0:
            return SoFar(value=None, lower=0.0, upper=1.0, done=0)
        size = n * n // self._squares  # effective: (Σ n_g)² / Σ n_g², rounded against each claim
        high = min(size, -(-(events + unknown) * n // self._squares))  # missing = 1
        low = size - min(size, -(-(n - events) * n // self._squares))  # missing = 0
        return SoFar(
            value=events / (n - unknown) if n > unknown else None,
            lower=stats.clopper_pearson_lower(low, size, confidence),
            upper=stats.clopper_pearson_upper(high, size, confidence),
            done=n,
        )

    def why_worthless(self, most_missing: float = MAX_MISSING) -> str | None:
        """Why the outcomes are not worth storing, else null. What is not stored is asked again by the next run."""
        if self.given_up is not None:
            kept = self.done - self.missing
            return f"{self.given_up}; {kept} of {self.total} cases are kept, and the same command goes on from there"
        if self.missing > most_missing * self.total:
            commonest = self.reasons.most_common(1)[0][0]
            return (
                f"{self.missing} of {self.total} cases could not be measured; most often: {commonest}; "
                "the same command asks them again"
            )
        if self.empty > MOST_EMPTY * self.total:
            return (
                f"{self.empty} of {self.total} answers were empty, more than {MOST_EMPTY:.0%}: "
                "that says nothing about the model"
            )
        return None
