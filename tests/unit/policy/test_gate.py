"""The gate decides by bounds, counts what is missing against each claim, and never passes what it can't tell."""

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dutchdoor import stats
from dutchdoor.core import EvidenceError, VerdictKind
from dutchdoor.evidence.scored import MISSING, Label, Scores, Side
from dutchdoor.policy.gate import GateVerdict, Terms, judge_difference, judge_rate

PASS, FAIL, INCONCLUSIVE = VerdictKind.PASS, VerdictKind.FAIL, VerdictKind.INCONCLUSIVE
Given = Sequence[bool | int | None] | Mapping[str, bool | int | None]


def scores(given: Given, name: str = "c.jsonl", clusters: Sequence[str | None] | None = None) -> Scores:
    items = given if isinstance(given, Mapping) else {f"q{i:04}": x for i, x in enumerate(given)}
    found = Scores(name, clusters=None if clusters is None else list(clusters))
    for id, x in items.items():
        found.index[id] = len(found.index)
        found.scores.append(MISSING if x is None else int(x))
        found.lines.append(len(found.index))
    return found


def of(events: int, n: int) -> list[int]:
    return [1] * events + [0] * (n - events)


def differ(a: Given, b: Given, **terms: object) -> GateVerdict:
    return judge_difference(scores(a), scores(b, "b.jsonl"), Terms(**{"bound": 0.03, **terms}))  # type: ignore[arg-type]


def alone(a: Given, **terms: object) -> GateVerdict:
    return judge_rate(scores(a), Terms(**{"bound": 0.05, **terms}))  # type: ignore[arg-type]


def mirrored(given: Sequence[int | None]) -> list[int | None]:
    return [None if x is None else 1 - x for x in given]


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"), [(0, 0, PASS), (2, 2, PASS), (30, 0, FAIL), (12, 4, INCONCLUSIVE)]
)
def test_a_difference_is_decided_by_its_bounds(gained: int, lost: int, verdict: VerdictKind) -> None:
    a = [1] * gained + [0] * (400 - gained)
    b = [0] * (400 - lost) + [1] * lost
    said = differ(a, b)
    expected = stats.paired_difference([x == 1 for x in a], [x == 1 for x in b])
    assert (said.verdict, said.measure, said.bound, said.method) == (verdict, "difference", 0.03, "tango")
    assert (said.value, said.lower, said.upper) == (expected.value, expected.lower, expected.upper)
    assert (said.n, said.missing, said.clusters, said.stopped_at) == (400, 0, None, None)
    assert (said.because is None) is (verdict is not INCONCLUSIVE)


def test_the_bound_itself_passes_and_a_hair_below_does_not() -> None:
    upper = stats.clopper_pearson_upper(3, 200)
    assert alone(of(3, 200), bound=upper).verdict is PASS
    assert alone(of(3, 200), bound=upper - 1e-12).verdict is INCONCLUSIVE
    lower = stats.clopper_pearson_lower(20, 200)
    assert alone(of(20, 200), bound=lower).verdict is INCONCLUSIVE
    assert alone(of(20, 200), bound=lower - 1e-12).verdict is FAIL


def test_no_failure_in_299_items_is_what_one_percent_takes() -> None:
    assert alone(of(0, 299), bound=0.01).verdict is PASS
    assert alone(of(0, 298), bound=0.01).verdict is INCONCLUSIVE


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("a", "b"), [(2, 2), (60, 2), (10, 4)])
def test_where_more_is_better_the_verdict_is_that_of_the_complement(a: int, b: int, seed: int | None) -> None:
    ours, theirs = [None, *of(a, 300)], [*of(b, 300), None]
    worse = differ(ours, theirs, sequential_seed=seed)
    better = differ(
        mirrored(ours), mirrored(theirs), bound=-0.03, higher_is_better=True, sequential_seed=seed
    )
    assert (better.verdict, better.stopped_at) == (worse.verdict, worse.stopped_at)
    assert [better.value, better.lower, better.upper] == pytest.approx(
        [-worse.value, -worse.upper, -worse.lower]  # type: ignore[operator]
    )
    rate = alone(ours, sequential_seed=seed)
    other = alone(mirrored(ours), bound=0.95, higher_is_better=True, sequential_seed=seed)
    assert (other.verdict, other.stopped_at) == (rate.verdict, rate.stopped_at)
    assert [other.value, other.lower, other.upper] == pytest.approx(
        [1 - rate.value, 1 - rate.upper, 1 - rate.lower]  # type: ignore[operator]
    )


def test_a_missing_score_counts_against_the_claim_on_either_side() -> None:
    a, b = of(2, 300), of(2, 300)
    whole = differ(a, b)
    for ours, theirs in (([*a[:-1], None], b), (a, [None, *b[1:]])):
        said = differ(ours, theirs)
        assert said.missing == 1 and said.upper is not None and whole.upper is not None
        assert said.upper > whole.upper
        # as if the candidate were harmful there, and the baseline not
        filled = differ([1 if x is None else x for x in ours], [0 if x is None else x for x in theirs])
        assert said.upper == filled.upper


def test_the_value_is_over_complete_pairs() -> None:
    said = differ([1, 1, 0, None], [0, None, 0, 1], max_missing=1.0)
    assert (said.value, said.n, said.missing) == (0.5, 4, 2)


@pytest.mark.parametrize(("missing", "told"), [(9, False), (10, True)])
@pytest.mark.parametrize("side", [0, 1])
def test_more_than_two_percent_missing_on_one_side_concludes_nothing(
    missing: int, told: bool, side: int
) -> None:
    both: list[list[int | None]] = [[0] * 450, [0] * 450]
    both[side][:missing] = [None] * missing
    said = differ(both[0], both[1], bound=0.2)
    assert said.verdict is (INCONCLUSIVE if told else PASS)
    assert ("no score of the" in (said.because or "")) is told
    assert differ(both[0], both[1], bound=0.2, sequential_seed=0).verdict is said.verdict


def test_an_item_that_only_one_file_has_is_missing_and_named() -> None:
    a = {f"q{i}": 0 for i in range(200)} | {"only-ours": 0}
    b = {f"q{i}": 0 for i in range(200)} | {f"theirs-{i}": 1 for i in range(4)}
    said = differ(a, b)
    assert (said.n, said.missing, said.verdict) == (205, 5, PASS)
    assert said.because == (
        "1 item is only in c.jsonl: only-ours; 4 items are only in b.jsonl: theirs-0, theirs-1, theirs-2, …"
    )


def test_files_about_other_items_never_pass() -> None:
    said = differ({f"a{i}": 0 for i in range(500)}, {f"b{i}": 1 for i in range(500)}, bound=0.99)
    assert (said.verdict, said.value, said.n, said.missing) == (INCONCLUSIVE, None, 1000, 1000)


@pytest.mark.parametrize("seed", [None, 0])
def test_nothing_to_check_is_inconclusive(seed: int | None) -> None:
    for said, name in (
        (differ([], [], sequential_seed=seed), "c.jsonl and b.jsonl hold"),
        (differ([0], [], sequential_seed=seed), "b.jsonl holds"),
        (alone([], sequential_seed=seed), "c.jsonl holds"),
    ):
        assert said.verdict is INCONCLUSIVE and (said.value, said.lower, said.upper) == (None, None, None)
        assert said.because == f"{name} no items: nothing was checked"


def test_items_that_share_a_source_count_for_less() -> None:
    clusters = [f"s{i // 10}" for i in range(300)]
    a = scores(of(0, 300), clusters=clusters)
    said = judge_rate(a, Terms(bound=0.05))
    assert (said.verdict, said.clusters) == (INCONCLUSIVE, 30)
    assert alone(of(0, 300)).verdict is PASS
    b = scores(of(0, 300), "b.jsonl", clusters)
    expected = stats.paired_difference([False] * 300, [False] * 300, clusters)
    assert judge_difference(a, b, Terms(bound=0.03)).upper == expected.upper


def test_a_cluster_that_differs_between_the_files_is_an_error() -> None:
    a, b = scores([0, 0], clusters=["x", "y"]), scores([0, 0], "b.jsonl", ["x", None])
    with pytest.raises(EvidenceError, match=r"b\.jsonl:2: item 'q0001' is of cluster None, in c\.jsonl:2 of"):
        judge_difference(a, b, Terms(bound=0.03))


def test_the_order_of_the_files_decides_nothing() -> None:
    chance = random.Random(7)
    a = {f"q{i}": int(chance.random() < 0.04) for i in range(400)}
    b = {f"q{i}": int(chance.random() < 0.04) for i in range(400)}
    other = dict(sorted(a.items(), key=lambda each: hash(each[0])))
    for seed in (None, 0, 1):
        assert differ(a, b, sequential_seed=seed) == differ(other, b, sequential_seed=seed)


def test_a_sequential_test_stops_before_the_end_and_says_where() -> None:
    said = differ(of(0, 1000), of(0, 1000), sequential_seed=5)
    assert said.verdict is PASS and said.stopped_at is not None and 50 < said.stopped_at < 400
    assert said.method == "betting, order of seed 5" and said.n == 1000
    bad = differ([1] * 1000, [0] * 1000, sequential_seed=5)
    assert bad.verdict is FAIL and bad.stopped_at is not None and bad.stopped_at < 20 and bad.value == 1.0


def test_a_sequential_test_depends_on_its_seed_alone() -> None:
    a, b = of(12, 1000), of(0, 1000)
    stops = [differ(a, b, sequential_seed=seed).stopped_at for seed in range(6)]
    assert stops == [differ(a, b, sequential_seed=seed).stopped_at for seed in range(6)]
    assert len(set(stops)) > 1


def test_a_sequential_test_without_an_end_passes_nothing() -> None:
    said = differ(of(0, 20), of(0, 20), sequential_seed=0)
    assert (said.verdict, said.stopped_at) == (INCONCLUSIVE, None)
    assert "without an end" in (said.because or "")


def test_a_sequential_test_takes_whole_clusters() -> None:
    clusters = [f"s{i // 4}" for i in range(2000)]
    ours, theirs = scores(of(0, 2000), clusters=clusters), scores(of(0, 2000), "b.jsonl", clusters)
    said = judge_difference(ours, theirs, Terms(bound=0.03, sequential_seed=0))
    assert said.verdict is PASS and said.stopped_at is not None and said.stopped_at % 4 == 0
    assert said.clusters == said.stopped_at // 4


def labelled(side: Side, truth: Sequence[int], ids: Sequence[int]) -> list[Label]:
    return [
        Label(f"q{i:04}", side, x == 1, f"g.jsonl:{n}")
        for n, (i, x) in enumerate(zip(ids, truth, strict=True), 1)
    ]


def test_a_judge_is_corrected_by_the_labels_of_each_side() -> None:
    a = of(60, 600)
    opinions = [x == 1 for x in a]
    gold = labelled("candidate", [1] * 50 + [0] * 10, range(60)) + labelled(
        "candidate", [0] * 100, range(400, 500)
    )
    said = judge_rate(scores(a), Terms(bound=0.15), gold)
    known = stats.Gold([opinions[i] for i in [*range(60), *range(400, 500)]], [each.gold for each in gold])
    expected = stats.judged_rate(opinions, known)
    assert (said.value, said.lower, said.upper) == (expected.value, expected.lower, expected.upper)
    assert said.value is not None and said.value < 0.06  # the judge's 10 % holds its own false alarms
    assert (said.method, said.verdict) == (expected.method, PASS)
    raw = judge_rate(scores(a), Terms(bound=0.15))
    assert said.upper != raw.upper


def test_a_label_of_an_item_that_the_judge_left_unscored_says_nothing() -> None:
    a = [None, *of(60, 599)]
    gold = labelled("candidate", [1] * 50 + [0] * 50, [*range(1, 51), *range(400, 450)])
    more = labelled("candidate", [0], [0])
    terms = Terms(bound=0.3)
    assert judge_rate(scores(a), terms, gold) == judge_rate(scores(a), terms, more + gold)


@pytest.mark.parametrize(
    ("ours", "theirs", "because"),
    [
        (range(0), range(0), "no gold labels for the candidate"),
        (range(40, 140), range(40, 140), "all 100 gold labels of the candidate are 0"),
        (range(140), range(30), "all 30 gold labels of the baseline are 1"),
        (range(38, 42), range(38, 42), "too few gold labels"),
    ],
)
def test_labels_that_tell_nothing_of_the_judge_conclude_nothing(
    ours: range, theirs: range, because: str
) -> None:
    a = scores(of(40, 600))
    gold = labelled("candidate", [int(i < 40) for i in ours], ours)
    gold += labelled("baseline", [int(i < 40) for i in theirs], theirs)
    said = judge_difference(a, scores(of(40, 600), "b.jsonl"), Terms(bound=0.9), gold)
    assert said.verdict is INCONCLUSIVE and because in (said.because or "")


def test_a_judge_no_better_than_chance_concludes_nothing() -> None:
    gold = labelled("candidate", [0, 1] * 200, range(400))
    said = judge_rate(scores(of(200, 600)), Terms(bound=0.99), gold)
    assert said.verdict is INCONCLUSIVE and "no better than chance" in (said.because or "")


def test_a_label_of_an_item_or_a_side_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EvidenceError, match=r"g\.jsonl:1: id: 'q0009' is not in c\.jsonl"):
        judge_rate(scores([0]), Terms(bound=0.5), labelled("candidate", [1], [9]))
    with pytest.raises(EvidenceError, match=r"g\.jsonl:1: side: there is no baseline"):
        judge_rate(scores([0]), Terms(bound=0.5), labelled("baseline", [1], [0]))


some = st.lists(st.tuples(*[st.sampled_from([0, 0, 0, 1, None])] * 2), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(some, st.sampled_from([0.03, 0.2, 0.5]), st.booleans(), st.integers(0, 2**30))
def test_no_completion_of_what_is_missing_turns_a_verdict_around(
    pairs: list[tuple[int | None, int | None]], bound: float, higher: bool, seed: int
) -> None:
    terms = {"bound": -bound if higher else bound, "higher_is_better": higher, "max_missing": 1.0}
    said = differ([a for a, _ in pairs], [b for _, b in pairs], **terms)
    chance = random.Random(seed)
    full = [[chance.randint(0, 1) if x is None else x for x in side] for side in zip(*pairs, strict=True)]
    if said.verdict is not INCONCLUSIVE:
        assert differ(full[0], full[1], **terms).verdict is said.verdict


@settings(max_examples=40, deadline=None)
@given(some, st.integers(0, 9))
def test_a_verdict_is_of_the_side_of_the_bound_that_its_interval_is_on(
    pairs: list[tuple[int | None, int | None]], seed: int
) -> None:
    for at in (None, seed):
        said = differ(
            [a for a, _ in pairs], [b for _, b in pairs], bound=0.3, max_missing=1.0, sequential_seed=at
        )
        assert said.lower is not None and said.upper is not None
        if said.verdict is PASS and at is None:
            assert said.upper <= 0.3
        if said.verdict is FAIL and at is None:
            assert said.lower > 0.3
        assert -1 <= said.lower <= said.upper <= 1
        assert said.n == len(pairs) and said.missing == sum(None in pair for pair in pairs)
