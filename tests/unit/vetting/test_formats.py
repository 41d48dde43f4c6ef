"""Foreign logs: each form is read, each fault is named, and nothing unpacks without bounds."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.core import DocumentError, DutchdoorError
from dutchdoor.vetting.formats import archive
from dutchdoor.vetting.formats.inspect_log import read_inspect
from dutchdoor.vetting.formats.lm_eval import read_lm_eval
from dutchdoor.vetting.formats.log import Sample, field, truth
from dutchdoor.vetting.formats.moment import moment
from dutchdoor.vetting.formats.own import read_own
from dutchdoor.vetting.formats.reading import read_log
from tests.fakes import logs

SAMPLES = [
    logs.inspect_sample("a-1", "2+2?", {"match": "C", "sr": {"refusal": 0, "score": 0.25}}, answer="4"),
    logs.inspect_sample(
        2,
        [
            {"role": "system", "content": "kind"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        ],
        {},
    ),
    logs.inspect_sample("e", "?", {}, error={"message": "ReadTimeout('how to brew potion 3')", "traceback": ""}),
]  # fmt: skip


@pytest.mark.parametrize("name", ["x.json", "x.eval"])
def test_both_forms_of_an_inspect_log_say_the_same(tmp_path: Path, name: str) -> None:
    write = logs.write_inspect_json if name == "x.json" else logs.write_inspect_eval
    log = read_inspect(write(tmp_path / name, SAMPLES))
    found = {sample.id: sample for sample in log.samples}
    assert found["a-1"].scores == {"match": "C", "sr.refusal": 0, "sr.score": 0.25}
    assert (found["a-1"].input, found["a-1"].answer, found["a-1"].epoch) == ("2+2?", "4", 1)
    assert found["2"].input == "system: kind\nuser: hi"
    assert found["e"].error == "ReadTimeout"  # and none of the case's words
    assert (log.version, log.model, log.temperature, log.seed) == ("0.3.285", "mockllm/model", 0.5, 3)
    assert log.made_at == "2026-11-20T19:52:19.000000Z" and log.notes == ()


def test_a_log_packed_with_zstd_is_read(tmp_path: Path) -> None:
    path = logs.as_zstd(logs.write_inspect_eval(tmp_path / "x.eval", SAMPLES))
    plain = read_inspect(logs.write_inspect_eval(tmp_path / "y.eval", SAMPLES))
    log = read_inspect(path)
    assert [each.scores for each in log.samples] == [each.scores for each in plain.samples]


def test_scores_that_are_nan_are_none(tmp_path: Path) -> None:
    path = logs.write_inspect_json(
        tmp_path / "x.json", [logs.inspect_sample("a", "NaN, he said", {"m": float("nan")})]
    )
    (sample,) = read_inspect(path).samples
    assert truth(sample, field("m"), None) is None and sample.input == "NaN, he said"


def test_a_run_that_broke_off_is_said_and_one_that_is_invalid_is_refused(tmp_path: Path) -> None:
    log = read_inspect(logs.write_inspect_eval(tmp_path / "x.eval", SAMPLES, status="error"))
    assert log.notes == ("the run did not end well: its status is error",)
    with pytest.raises(DocumentError, match="marked as invalid"):
        read_inspect(logs.write_inspect_json(tmp_path / "x.json", SAMPLES, invalidated=True))
    with pytest.raises(DocumentError, match="log format 3 is unknown"):
        read_inspect(logs.write_inspect_json(tmp_path / "y.json", SAMPLES, version=3))


def test_an_entry_that_unpacks_beyond_its_bounds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = logs.write_inspect_eval(tmp_path / "x.eval", [logs.inspect_sample("a", "x" * 100_000, {})])
    assert path.stat().st_size < 5_000
    monkeypatch.setattr(archive, "LARGEST_ENTRY", 50_000)
    with pytest.raises(DocumentError, match="unpacks to more than is read"):
        read_inspect(path)
    monkeypatch.setattr(archive, "LARGEST_ENTRY", 200_000)
    monkeypatch.setattr(archive, "LARGEST_WHOLE", 50_000)
    with pytest.raises(DocumentError, match="unpacks to more than is read"):
        read_inspect(path)


@pytest.mark.parametrize("cut", [10, 200, 600])
def test_a_torn_log_is_an_error_and_no_fault_of_ours(tmp_path: Path, cut: int) -> None:
    path = logs.write_inspect_eval(tmp_path / "x.eval", SAMPLES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DocumentError):
        read_inspect(path)


def test_a_zip_that_is_no_log_is_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.eval", "w") as file:
        file.writestr("a.txt", "a")
    with pytest.raises(DocumentError, match=r"has no entry _journal/start\.json"):
        read_inspect(tmp_path / "x.eval")


def test_samples_of_lm_eval_are_read_with_the_results_beside_them(tmp_path: Path) -> None:
    rows = [
        logs.lm_eval_sample(0, {"id": "q1", "q": "2+2?"}, "Q: 2+2?\nA:", {"exact_match": 1.0}, answer="4")
    ]
    log = read_log(logs.write_lm_eval(tmp_path, "sums", rows), paths={"input": "doc.q"})
    (sample,) = log.samples
    assert (log.tool, log.version, log.model) == ("lm_eval", "0.4.13", "dummy")
    assert log.made_at == "2026-11-20T19:55:07.065120Z"
    assert (sample.id, sample.input, sample.answer, sample.scores) == (
        "q1",
        "2+2?",
        "4",
        {"exact_match": 1.0},
    )
    (prompt,) = read_log(logs.write_lm_eval(tmp_path, "sums", rows), paths={}).samples
    assert prompt.input == "Q: 2+2?\nA:"


def test_several_filters_need_one_that_counts(tmp_path: Path) -> None:
    rows = [
        logs.lm_eval_sample(0, {"id": "q"}, "?", {"m": at}, filter=name)
        for at, name in enumerate(("strict", "loose"))
    ]
    path = logs.write_lm_eval(tmp_path, "sums", rows, results=False)
    with pytest.raises(DocumentError, match="several filters: loose, strict"):
        read_lm_eval(path, paths={}, filter=None)
    log = read_lm_eval(path, paths={}, filter="loose")
    assert [each.scores for each in log.samples] == [{"m": 1}]
    assert log.version is None and "not known" in log.notes[0]
    with pytest.raises(DocumentError, match="no filter 'mild'"):
        read_lm_eval(path, paths={}, filter="mild")


def test_own_lines_need_the_fields_that_were_mapped(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"case": "a", "out": {"harm": null}}\n{"case": "b"}\n')
    with pytest.raises(DocumentError, match=r"own.jsonl:2: there is no field 'out.harm'"):
        read_own(path, {"id": "case", "correct": "out.harm"})
    with pytest.raises(DocumentError, match=r"own.jsonl:1: nothing names the case"):
        read_own(path, {})


@pytest.mark.parametrize(
    ("value", "at_least", "expected"),
    [
        ("C", None, True), ("I", None, False), ("N", None, False), (True, None, True), (0, None, False),
        (1.0, None, True), ("0", None, False), ("yes", None, True), (None, None, None), (0.7, 0.5, True),
        (0.4, 0.5, False), ("P", 0.5, True), (float("nan"), 0.5, None),
    ],
)  # fmt: skip
def test_a_score_is_a_yes_a_no_or_none(value: Any, at_least: float | None, expected: bool | None) -> None:
    sample = Sample(where="w", scores={"m": value})
    assert truth(sample, field("m"), at_least) is expected
    assert truth(sample, field("!m"), at_least) is (None if expected is None else not expected)


@pytest.mark.parametrize("value", [0.5, "P", 2, "maybe", [1]])
def test_a_score_that_is_neither_is_an_error(value: Any) -> None:
    with pytest.raises(DocumentError, match="w: the score m"):
        truth(Sample(where="w", scores={"m": value}), field("m"), None)


def test_moments_are_in_utc_and_words_are_none() -> None:
    assert moment("2026-11-24T19:55:07+01:00") == "2026-11-24T18:55:07.000000Z"
    assert moment("2026-11-24") == "2026-11-24T00:00:00.000000Z"
    assert moment("yesterday") is None and moment(None) is None


@pytest.mark.parametrize("text", ["1", "[1]\n", '{"doc": 1', "\xff"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.eval"])
def test_broken_files_are_errors_with_words(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DutchdoorError) as caught:
        read_log(tmp_path / name, paths={})
    assert caught.value.message and json.dumps(caught.value.message)
