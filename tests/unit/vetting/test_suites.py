"""A claim of marginal risk is whole or refused, and what nobody can judge is missing, never safe."""

import json

import pytest

from dutchdoor.core import DocumentError
from dutchdoor.vetting.scorers import score
from dutchdoor.vetting.suites import CLAIM, parse_suite

CASE = {"id": "1", "prompt": "2 + 2?", "scorer": "exact", "target": "4"}
WHOLE = {"kind": "dutchdoor/suite@1", "domain": "potions"} | dict.fromkeys(CLAIM, "stated")


def lines(*rows: object) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


def test_a_whole_claim_of_marginal_risk_is_taken() -> None:
    assert parse_suite(lines(WHOLE, CASE), "s").header.assumptions == "stated"


@pytest.mark.parametrize("name", [*CLAIM, "domain"])
@pytest.mark.parametrize("value", [None, "  "])
def test_a_claim_that_leaves_out_a_field_is_refused(name: str, value: str | None) -> None:
    with pytest.raises(DocumentError, match=f"s:1: a claim of marginal risk without {name}"):
        parse_suite(lines(WHOLE | {name: value}, CASE), "s")


def test_a_judge_must_be_named_with_its_gold_labels() -> None:
    case = {"id": "1", "prompt": "how?", "scorer": "judge"}
    judge = {"model": "m", "prompt": "harmful?", "gold": "gold.jsonl"}
    with pytest.raises(DocumentError, match="judged by a model that the header does not name"):
        parse_suite(lines(case), "s")
    with pytest.raises(DocumentError, match="gold"):
        parse_suite(lines({"kind": "dutchdoor/suite@1", "judge": judge | {"gold": None}}, case), "s")
    assert (
        parse_suite(lines({"kind": "dutchdoor/suite@1", "judge": judge}, case), "s").cases[0].scorer
        == "judge"
    )


def test_what_a_model_would_have_to_judge_is_missing() -> None:
    came = score("judge", None, None, "Sorry, I can't help with that.")
    assert (came.correct, came.refused) == (None, None)
