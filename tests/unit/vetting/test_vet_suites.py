"""A suite is read strictly, with file and line."""

import json
from pathlib import Path

import pytest

from dutchdoor.core import DocumentError, digest_file
from dutchdoor.vetting.suites import load_suite, parse_suite

CASE = {"id": "1", "prompt": "2 + 2?", "scorer": "exact", "target": "4"}


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_a_suite_is_its_header_and_its_cases(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    header = {"kind": "dutchdoor/suite@1", "domain": "potions"}
    chat = {"id": "2", "messages": [{"role": "user", "content": "hi"}], "scorer": "refusal", "cluster": "c"}
    path.write_bytes(lines(header, CASE, chat) + b"\n")
    suite = load_suite(path)
    assert suite.header.domain == "potions"
    assert [case.id for case in suite.cases] == ["1", "2"]
    assert suite.cases[0].conversation()[0].content == "2 + 2?"
    assert suite.cases[1].cluster == "c"
    assert suite.digest == digest_file(path)


def test_a_suite_needs_no_header() -> None:
    assert len(parse_suite(lines(CASE), "s").cases) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "s: no cases"),
        (lines({"kind": "dutchdoor/suite@1"}), "s: no cases"),
        (lines({"kind": "dutchdoor/training-set@1"}), "s:1: kind 'dutchdoor/training-set@1' is no suite"),
        (lines(CASE, CASE), "s:2: the id '1' was used on line 1"),
        (lines(CASE) + b'{"id": "2", "pro', "s:2: "),
        (lines(CASE, {"kind": "dutchdoor/suite@1"}), "s:2: Object"),
        (lines({**CASE, "answer": "4"}), "unknown field `answer`"),
        (lines({**CASE, "scorer": "vibes"}), "Invalid enum value 'vibes'"),
        (lines({**CASE, "target": None}), "target: the scorer 'exact' needs one"),
        (lines({**CASE, "scorer": "choice", "target": "a"}), "choices"),
        (
            lines({**CASE, "scorer": "code", "target": {"function": "f", "tests": []}}),
            "no function with tests",
        ),
        (lines({**CASE, "scorer": "code", "target": "f"}), "no function with tests"),
        (lines({**CASE, "scorer": "code", "target": {"tests": [[[1], 2]]}}), "no function with tests"),
        (lines({**CASE, "scorer": "regex", "target": "("}), "s:1: target"),
        (lines({**CASE, "messages": [{"role": "user", "content": "x"}]}), "either `prompt` or `messages`"),
        (lines({"id": "1", "scorer": "refusal"}), "either `prompt` or `messages`"),
        (lines({**CASE, "id": ""}), "id is empty"),
        (lines({**CASE, "max_tokens": 0}), "max_tokens"),
        (lines({**CASE, "target": []}), "neither a text nor a list of texts"),
        (lines({**CASE, "scorer": "numeric", "target": "nan"}), "no finite number"),
        (lines({**CASE, "scorer": "constraints", "target": [{"min_words": "5"}]}), "needs a count"),
        (lines({**CASE, "scorer": "constraints", "target": [{"starts_with": 5}]}), "needs a text"),
        (
            lines({**CASE, "scorer": "code", "target": {"function": "f", "tests": [[5, 5]]}}),
            "no function with tests",
        ),
        ('{"id": "1", "prompt": "\xe4", "scorer": "refusal"}'.encode("latin-1"), "s:1: "),
        (b"\xff\xfe\n", "s:1: "),
        (b"[" * 100_000, "s:1: "),
    ],
)
def test_a_broken_suite_is_named_with_its_line(data: bytes, why: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_suite(data, "s")
    assert why in caught.value.message


def test_a_suite_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="can't read the suite"):
        load_suite(tmp_path / "none.jsonl")


def test_the_last_message_must_be_the_user_s() -> None:
    chat = {"id": "2", "messages": [{"role": "assistant", "content": "hi"}], "scorer": "refusal"}
    with pytest.raises(DocumentError, match="last one"):
        parse_suite(lines(chat), "s")


def test_the_mark_that_some_editors_put_before_a_file_is_no_part_of_it() -> None:
    assert parse_suite(b"\xef\xbb\xbf" + lines(CASE), "s").cases[0].id == "1"
