"""What is exported has the form that Inspect reads: the fields that its schema requires, and its names of entries.

The lists are those of `inspect_ai.log.EvalLog.model_json_schema()` in 0.3.285; `read_eval_log` of that version
reads such files and gives the same scores.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.core import UsageError
from dutchdoor.evidence.record import Evidence, Outcome
from dutchdoor.vetting.formats.inspect_out import WITHHELD, write_inspect
from dutchdoor.vetting.suites import parse_suite
from tests.unit.evidence.test_coverage import evidence

REQUIRED: dict[str, set[str]] = {
    "log": {"eval"},
    "eval": {"created", "task", "dataset", "model", "config"},
    "sample": {"id", "epoch", "input", "target"},
    "score": {"name", "scorer"},
    "error": {"message", "traceback", "traceback_ansi"},
}


@pytest.fixture
def three() -> Evidence:
    return evidence(
        Outcome(id="a/1", correct=True, refused=False),
        Outcome(id="b", correct=False, refused=True, cluster="x"),
        Outcome(id="c", correct=None, refused=None, error="Unreachable"),
    )


def check_log(header: dict[str, Any], samples: list[dict[str, Any]]) -> None:
    assert header.keys() >= REQUIRED["log"] and header["version"] == 2 and header["status"] == "success"
    assert header["eval"].keys() >= REQUIRED["eval"]
    assert header["eval"]["dataset"]["sample_ids"] == ["a/1", "b", "c"]
    for score in header["results"]["scores"]:
        assert score.keys() >= REQUIRED["score"]
    accuracy = {each["name"]: each["metrics"]["accuracy"]["value"] for each in header["results"]["scores"]}
    assert accuracy == {"correct": 0.5, "refused": 0.5}
    assert all(sample.keys() >= REQUIRED["sample"] for sample in samples)
    assert samples[0]["scores"] == {"correct": {"value": "C"}, "refused": {"value": "I"}}
    assert samples[2]["scores"] == {} and samples[2]["error"].keys() >= REQUIRED["error"]


def test_the_json_form_has_what_inspect_requires(tmp_path: Path, three: Evidence) -> None:
    write_inspect(tmp_path / "x.json", three, None)
    log = json.loads((tmp_path / "x.json").read_text())
    check_log(log, log["samples"])
    assert {sample["input"] for sample in log["samples"]} == {WITHHELD}


def test_the_zip_form_has_the_entries_that_inspect_looks_for(tmp_path: Path, three: Evidence) -> None:
    write_inspect(tmp_path / "x.eval", three, None)
    with zipfile.ZipFile(tmp_path / "x.eval") as archive:
        names = archive.namelist()
        inside = [f"samples/{id}_epoch_1.json" for id in ("a/1", "b", "c")]
        assert names == ["_journal/start.json", *inside, "summaries.json", "header.json"]
        check_log(
            json.loads(archive.read("header.json")), [json.loads(archive.read(each)) for each in inside]
        )
        assert [each["id"] for each in json.loads(archive.read("summaries.json"))] == ["a/1", "b", "c"]


def test_questions_are_written_only_with_the_suite(tmp_path: Path, three: Evidence) -> None:
    rows = [{"id": id, "prompt": f"ask {id}", "scorer": "refusal"} for id in ("a/1", "b", "c")]
    suite = parse_suite("\n".join(map(json.dumps, rows)).encode(), "s")
    write_inspect(tmp_path / "x.json", three, suite)
    log = json.loads((tmp_path / "x.json").read_text())
    assert [sample["input"] for sample in log["samples"]] == ["ask a/1", "ask b", "ask c"]


def test_another_name_is_a_wrong_call(tmp_path: Path, three: Evidence) -> None:
    with pytest.raises(UsageError, match="neither"):
        write_inspect(tmp_path / "x.zip", three, None)
    assert not list(tmp_path.iterdir())
