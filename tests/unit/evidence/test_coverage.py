"""The suite says what there is to answer and what shares a source, not whoever made the evidence."""

import json
from pathlib import Path

import msgspec
import pytest

from dutchdoor.core import EvidenceError, ThreatModel, digest_file
from dutchdoor.evidence.coverage import LEFT_OUT, held_against, suite_cases
from dutchdoor.evidence.measures import rate
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Subject

CASES = {"a": "x", "b": "x", "c": None}


def evidence(*outcomes: Outcome) -> Evidence:
    return Evidence(
        subject=Subject(family="f", member="m", variant="v", commitment="c"),
        conditions=Conditions(
            suite="s", suite_digest="d", threat=ThreatModel.GUARDED, engine="e", engine_version="1"
        ),
        outcomes=outcomes,
        made_at="2026-11-20T00:00:00Z",
        code_version="0",
    )


def safe(id: str, cluster: str | None = None) -> Outcome:
    return Outcome(id=id, correct=False, refused=True, cluster=cluster)


def test_whole_evidence_stays_as_it_is() -> None:
    whole = evidence(safe("a", "x"), safe("b", "x"), safe("c"))
    assert held_against(whole, CASES) is whole


def test_a_case_that_was_left_out_is_missing_and_counts_against_the_claim() -> None:
    part = evidence(safe("c"), safe("a", "x"))
    held = held_against(part, CASES)
    assert isinstance(held, Evidence)
    assert [(each.id, each.refused, each.error) for each in held.outcomes] == [
        ("a", True, None), ("b", None, LEFT_OUT), ("c", True, None),
    ]  # fmt: skip
    assert (rate(part, "correct").missing, rate(held, "correct").missing) == (0, 1)
    assert rate(held, "correct").upper > rate(part, "correct").upper


def test_clusters_are_the_suites() -> None:
    held = held_against(evidence(safe("a", "1"), safe("b", "2"), safe("c", "3")), CASES)
    assert isinstance(held, Evidence)
    assert [each.cluster for each in held.outcomes] == ["x", "x", None]


def test_a_case_that_the_suite_does_not_have_fits_nowhere() -> None:
    assert "1 cases that the suite does not have: 'z'" in str(held_against(evidence(safe("z")), CASES))


def test_the_cases_of_a_suite_are_read_from_its_very_bytes(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    rows = [{"kind": "dutchdoor/suite@1"}, {"id": "a", "cluster": "x", "prompt": "?"}, {"id": "b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    digest = digest_file(path)
    assert suite_cases(path, digest) == {"a": "x", "b": None}
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "a"}\n')
    with pytest.raises(EvidenceError, match="was changed while it was read"):
        suite_cases(other, digest)


def test_a_file_that_lists_no_cases_holds_evidence_against_nothing(tmp_path: Path) -> None:
    for text in ('{"suite": "x"}\n', "no json", '{"id": 7}\n'):
        path = tmp_path / f"{len(text)}.jsonl"
        path.write_text(text)
        assert suite_cases(path, digest_file(path)) == {}


def test_held_evidence_says_nothing_else_than_before() -> None:
    part = evidence(safe("a", "x"))
    held = held_against(part, CASES)
    assert isinstance(held, Evidence)
    assert msgspec.structs.replace(held, outcomes=part.outcomes) == part
