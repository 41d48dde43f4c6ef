"""Lines of scores are read one by one; whatever is no such line is refused by file and line, with the remedy."""

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.core import EvidenceError
from dutchdoor.evidence import scored
from dutchdoor.evidence.scored import Label, Scores, read_labels, read_scores


def write(folder: Path, data: str | bytes, name: str = "s.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(folder: Path, data: str | bytes, cluster: str | None = None) -> Scores:
    return read_scores(write(folder, data), measure="harmful", cluster=cluster)


def held(scores: Scores) -> dict[str, bool | None]:
    return {id: scores.score(id) for id in scores.index}


def test_scores_are_0_1_true_false_or_null_and_other_fields_are_ignored(tmp_path: Path) -> None:
    lines = '{"id":"a","harmful":1}\n{"harmful":false,"id":"b","x":[{"id":"z","harmful":7}]}\n{"id":"c","harmful":null}'
    assert held(read(tmp_path, lines)) == {"a": True, "b": False, "c": None}


def test_an_item_that_is_not_there_has_no_score(tmp_path: Path) -> None:
    assert read(tmp_path, "").score("a") is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"id":"a","harmful":1}\r\n{"id":"b","harmful":0}\r\n',
        b'\xef\xbb\xbf{"id":"a","harmful":1}\n{"id":"b","harmful":0}',
        b'\n\n {"id":"a","harmful":1} \n\t\r\n{"id":"b","harmful":0}\n\n',
        gzip.compress(b'{"id":"a","harmful":1}\n{"id":"b","harmful":0}\n'),
    ],
    ids=["crlf", "bom", "blank lines", "gzip"],
)
def test_line_ends_a_bom_blank_lines_and_gzip_change_nothing(tmp_path: Path, data: bytes) -> None:
    assert held(read(tmp_path, data)) == {"a": True, "b": False}


def test_a_number_as_an_id_is_its_digits(tmp_path: Path) -> None:
    big = 10**30
    assert list(read(tmp_path, f'{{"id":7,"harmful":0}}\n{{"id":{big},"harmful":0}}').index) == [
        "7",
        str(big),
    ]
    with pytest.raises(EvidenceError, match=r's.jsonl:2: id: "7" is there twice, first in line 1'):
        read(tmp_path, '{"id":7,"harmful":0}\n{"id":"7","harmful":0}')


def test_ids_are_kept_sign_by_sign(tmp_path: Path) -> None:
    scores = read(
        tmp_path, '{"id":"\\u00e9","harmful":1}\n{"id":"e\\u0301","harmful":0}\n{"id":"🙂","harmful":1}'
    )
    assert held(scores) == {"é": True, "e\u0301": False, "🙂": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id":"b","harmful":2}', "harmful: expected 0, 1 or null, not 2"),
        ('{"id":"b","harmful":-1}', "harmful: expected 0, 1 or null, not -1"),
        ('{"id":"b","harmful":"yes"}', 'harmful: expected 0, 1 or null, not "yes"'),
        ('{"id":"b","harmful":"1"}', 'harmful: expected 0, 1 or null, not "1"'),
        ('{"id":"b","harmful":-0.0}', "harmful: expected 0, 1 or null, not -0.0"),
        ('{"id":"b","harmful":1.0}', "harmful: expected 0, 1 or null, not 1.0"),
        ('{"id":"b","harmful":[1]}', "harmful: expected 0, 1 or null"),
        ('{"id":"b","harmful":' + "9" * 6000 + "}", "is no JSON|out of range"),
        ('{"id":"b","harmful":1e999}', "out of range"),
        ('{"id":"b","harmful":NaN}', "NaN and Infinity are no values"),
        ('{"id":"b"}', "harmful: the field is not there"),
        ('{"harmful":1}', "id: the field is not there"),
        ('{"id":"","harmful":1}', "id: expected a text that is not empty"),
        ('{"id":null,"harmful":1}', "id: expected"),
        ('{"id":true,"harmful":1}', "id: expected"),
        ('{"id":1.5,"harmful":1}', "id: expected"),
        ('{"id":"a","harmful":1}', 'id: "a" is there twice, first in line 1'),
        ('{"id":"b","harmful":1,"harmful":0}', "harmful: the field is there twice"),
        ('{"id":"b","harmful":1,"harm\\u0066ul":0}', "harmful: the field is there twice"),
        ('{"id":"b","id":"c","harmful":1}', "id: the field is there twice"),
        ('{"id":"b","harmful":1', "is no JSON"),
        ('{"id":"b","harmful":1} {"id":"c","harmful":1}', "is no JSON"),
        ('[{"id":"b","harmful":1}]', "is a list"),
        ("3", "expected `object`"),
        ('{"id":"b","harmful":1,"x":' + "[" * 5000, "is nested too deeply"),
        ("[" * 5000, "is a list"),
        ("id,harmful", "is no JSON"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(EvidenceError, match=message) as caught:
        read(tmp_path, '{"id":"a","harmful":0}\n\n' + line + "\n")
    assert str(caught.value).startswith(f"{tmp_path / 's.jsonl'}:3: ")
    assert caught.value.hint


def test_a_field_that_is_twice_deeper_down_or_in_a_text_is_none_of_ours(tmp_path: Path) -> None:
    line = {"id": "a", "harmful": 1, "log": {"harmful": 0, "id": 3}, "text": '"harmful" "id" \\u0041'}
    assert held(read(tmp_path, json.dumps(line))) == {"a": True}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"id":"a","harmful":1}'.encode("utf-16"), "is UTF-16"),
        (b'{"id":"\xff","harmful":1}', "s.jsonl:1: is not UTF-8"),
        (gzip.compress(b'{"id":"a","harmful":1}\n')[:-5], "is no whole gzip file"),
        (b"\x1f\x8bnonsense", "is no whole gzip file"),
        (b'{"id":"a","harmful":1,"t":"' + b"x" * 300 + b'"}', "s.jsonl:1: longer than"),
    ],
    ids=["utf-16", "latin-1", "cut gzip", "no gzip", "a long line"],
)
def test_bytes_that_are_no_lines_are_refused(
    tmp_path: Path, data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored, "LONGEST", 256)
    with pytest.raises(EvidenceError, match=message) as caught:
        read(tmp_path, data)
    assert caught.value.hint


def test_a_folder_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="is a folder"):
        read_scores(tmp_path, measure="harmful")
    with pytest.raises(EvidenceError, match="there is no such file"):
        read_scores(tmp_path / "none", measure="harmful")


def test_stdin_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BufferedReader(io.BytesIO(gzip.compress(b'{"id":"a","harmful":1}\n')))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))
    scores = read_scores(Path("-"), measure="harmful")
    assert (scores.name, held(scores)) == ("stdin", {"a": True})


def test_clusters_are_read_where_a_field_is_named(tmp_path: Path) -> None:
    lines = '{"id":"a","harmful":1,"s":"x"}\n{"id":"b","harmful":1,"s":3}\n{"id":"c","harmful":1,"s":null}'
    scores = read(tmp_path, lines, "s")
    assert [scores.cluster(id) for id in "abc"] == ["x", "3", None]
    assert read(tmp_path, lines).clusters is None


@pytest.mark.parametrize("value", ['""', "true", "1.5", "[]", "{}"])
def test_a_cluster_that_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(EvidenceError, match=r"s.jsonl:1: s: expected a text"):
        read(tmp_path, f'{{"id":"a","harmful":1,"s":{value}}}', "s")


def test_a_line_without_the_cluster_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"s.jsonl:2: s: the field is not there"):
        read(tmp_path, '{"id":"a","harmful":1,"s":"x"}\n{"id":"b","harmful":1}', "s")


def test_labels_name_item_side_and_truth(tmp_path: Path) -> None:
    path = write(
        tmp_path, '{"id":"a","side":"candidate","gold":1}\n{"id":"a","side":"baseline","gold":false}\n'
    )
    assert read_labels(path) == [
        Label("a", "candidate", True, f"{path}:1"),
        Label("a", "baseline", False, f"{path}:2"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id":"a","side":"left","gold":1}', "side: expected candidate or baseline"),
        ('{"id":"a","side":["candidate"],"gold":1}', "side: expected candidate or baseline"),
        ('{"id":"a","side":"candidate","gold":null}', "gold: there is no label"),
        ('{"id":"a","side":"candidate","gold":0.5}', "gold: expected 0, 1"),
        ('{"id":"z","side":"candidate","gold":0}', "labelled twice"),
        ('{"id":"a","harmful":0}', "side: the field is not there"),
    ],
)
def test_a_label_that_is_none_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, '{"id":"z","side":"candidate","gold":0}\n' + line)
    with pytest.raises(EvidenceError, match=f"s.jsonl:2: .*{message}"):
        read_labels(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(min_size=1), st.sampled_from([0, 1, True, False, None]), max_size=12),
    st.booleans(),
)
def test_what_is_written_is_what_is_read(tmp_path: Path, items: dict[str, int | None], ascii_: bool) -> None:
    lines = [json.dumps({"id": id, "harmful": x}, ensure_ascii=ascii_) for id, x in items.items()]
    expected = {id: None if x is None else bool(x) for id, x in items.items()}
    assert held(read(tmp_path, "\n".join(lines))) == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_any_bytes_are_read_or_refused_and_never_a_fault(tmp_path: Path, data: bytes) -> None:
    try:
        read(tmp_path, data, "s")
    except EvidenceError as error:
        assert error.hint
