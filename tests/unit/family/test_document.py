"""Our own files are read strictly: each refusal names file, line and field, and says what to do."""

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.core import DocumentError
from dutchdoor.family.document import kind_of, open_document, parse_document
from dutchdoor.family.manifest import Family
from dutchdoor.policy.rules import Policy

GOOD = """\
kind: dutchdoor/family@1
family: gable
version: 1.0.0
publisher: {name: Example Lab}
members:
  - name: gable-s
    variants: [{id: bf16, weights: ./gable-s}]
    intent: {download: true, download_after: 2027-06-01}
    price: {input: 1, output: 0.06}
"""


def fault(text: str | bytes, type: type = Family) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        parse_document(text, type, "family.yaml")
    return caught.value


def test_a_good_manifest_is_read() -> None:
    family = parse_document(GOOD, Family, "family.yaml")
    assert family.members[0].intent.download_after == datetime.date(2027, 6, 1)
    assert family.members[0].price is not None and family.members[0].price.input == 1.0


def test_8e9_is_a_number() -> None:
    text = "kind: dutchdoor/policy@1\nid: p\nrules: [{id: r, gates: download, measure: parameters, at_most: 8e9}]\n"
    assert parse_document(text, Policy, "p").rules[0].at_most == 8e9


@pytest.mark.parametrize("number", ["8e9", "8_000_000_000", "8E+9", "8000000000.0"])
def test_numbers_have_all_their_spellings(number: str) -> None:
    text = f"kind: dutchdoor/policy@1\nid: p\nrules: [{{id: r, gates: api, measure: parameters, at_most: {number}}}]\n"
    assert parse_document(text, Policy, "p").rules[0].at_most == 8e9


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        ("intent:", "intend:", "family.yaml:8: members[0].intend: unknown field", "did you mean `intent`?"),
        (
            "download: true,", "download: yes,",
            "family.yaml:8: members[0].intent.download: expected true or false, got the text 'yes'",
            "yes and no are text",
        ),
        (
            "input: 1,", "input: cheap,",
            "family.yaml:9: members[0].price.input: expected a number, got the text 'cheap'", None,
        ),
        (
            "2027-06-01", "soon",
            "family.yaml:8: members[0].intent.download_after: expected a date, got the text 'soon'", "YYYY-MM-DD",
        ),
        (
            "2027-06-01", "2027-13-01",
            "family.yaml:8: members[0].intent.download_after: 2027-13-01 is no date", "YYYY-MM-DD",
        ),
        ("1.0.0", "1.0", "family.yaml:3: version: expected text, got 1.0", 'put it in quotes: "1.0"'),
        (
            "family: gable", "family: Gable",
            "family.yaml:2: family: expected a short lower-case name, got the text 'Gable'", "letters a–z",
        ),
        (
            "family: gable", "family: gable\nfamily: other",
            "family.yaml:3: family: given twice, first in line 2", "keep one",
        ),
        (
            "[{id: bf16, weights: ./gable-s}]", "[]",
            "family.yaml:7: members[0].variants: expected a list, got an empty list", "at least one",
        ),
        ("publisher: {name: Example Lab}\n", "", "the field `publisher` is missing", "add `publisher: …`"),
        ("name: Example Lab", "name: [a]", "publisher.name: expected text, got a list", None),
        (
            "input: 1,", "input: .nan,",
            "family.yaml:9: members[0].price.input: .nan is no finite number", "give a number",
        ),
        ("input: 1,", "input: .inf,", ".inf is no finite number", None),
        (
            "dutchdoor/family@1", "dutchdoor/policy@1",
            "family.yaml:1: kind: expected dutchdoor/family@1, got the text 'dutchdoor/policy@1'", None,
        ),
        (
            "kind: dutchdoor/family@1\n", "",
            "family.yaml:1: the file doesn't say what it is", "kind: dutchdoor/family@1",
        ),
        ("    intent:", "\tintent:", "family.yaml:8: a tab in the indentation", "indent with spaces"),
        (
            "{name: Example Lab}", "&p {name: Example Lab}",
            "publisher: anchors and aliases are refused", "write the value out",
        ),
        ("{name: Example Lab}", "{<<: {name: x}}", "merge keys", "write the fields out"),
        ("{name: Example Lab}", "!!python/object:os.system {name: x}", "family.yaml:4", None),
        ("{name: Example Lab}", "{name: !secret x}", "family.yaml:4", None),
        ("{name: Example Lab}", "{name: Example Lab", "family.yaml:", None),
        ("version: 1.0.0", "version: 1.0.0: 2", "family.yaml:3", "quotes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_line_field_and_remedy(
    before: str, after: str, message: str, hint: str | None
) -> None:
    assert before in GOOD
    error = fault(GOOD.replace(before, after, 1))
    assert message in error.message
    assert error.message.startswith("family.yaml")
    if hint is not None:
        assert hint in (error.hint or "")


def test_a_bad_value_lists_what_is_allowed() -> None:
    error = fault(GOOD.replace("    intent:", "    components: [{kind: dataset}]\n    intent:"))
    assert (
        error.message
        == "family.yaml:8: members[0].components[0].kind: the text 'dataset' is not allowed here"
    )
    assert error.hint is not None
    assert error.hint.startswith("did you mean `datasets`? known here: alignment-adapter, ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "family.yaml: the file is empty"),
        (b"   \n\n", "family.yaml: the file is empty"),
        (b"# only a comment\n", "family.yaml: the file is empty"),
        (b"- a\n- b\n", "family.yaml:1: expected fields (`kind: …`), got a list"),
        (b"just text\n", "got the text 'just text'"),
        (b"kind: a\nfamily: \xff\xfe\n", "family.yaml:2: it is not UTF-8 text"),
        (
            b"kind: dutchdoor/family@1\n---\nkind: dutchdoor/family@1\n",
            "family.yaml:2: but found another document",
        ),
        (b"%YAML 1.1\n---\nkind: x\n", "family.yaml:1: YAML directives are refused"),
        (b"[" * 100_000, "family.yaml"),
        (b"a: " + b"{a: " * 100 + b"1" + b"}" * 100, "nested more than"),
        (b"x" * (2 << 20), "larger than 1 MiB"),
        (b"\x00\x01", "family.yaml"),
    ],
)
def test_files_that_are_no_document_are_refused(data: bytes, message: str) -> None:
    assert message in fault(data).message


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    rows = ["kind: dutchdoor/family@1", "a: &a [x, x, x, x, x, x, x, x, x, x]"]
    rows += [
        f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(10))}]"
        for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    assert "anchors and aliases are refused" in fault("\n".join(rows)).message


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        open_document(tmp_path / "family.yaml", Family)
    assert "there is no such file" in caught.value.message
    assert "dutchdoor init" in (caught.value.hint or "")


def test_a_folder_in_place_of_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="can't be read"):
        open_document(tmp_path, Family)


def test_later_checks_find_the_line_of_a_field(tmp_path: Path) -> None:
    path = tmp_path / "family.yaml"
    path.write_text(GOOD)
    error = open_document(path, Family).fault("members[0].price.output", "too cheap")
    assert error.message == f"{path}:9: members[0].price.output: too cheap"


def test_a_file_tells_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(GOOD)
    assert kind_of(path) == "dutchdoor/family@1"
    path.write_text("kind: 3\n")
    assert kind_of(path) is None


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_in_our_own_words(text: str) -> None:
    try:
        parse_document(text, Family, "family.yaml")
    except DocumentError as error:
        assert error.message.startswith("family.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_our_own_words(data: bytes) -> None:
    try:
        parse_document(b"kind: dutchdoor/family@1\n" + data, Family, "family.yaml")
    except DocumentError as error:
        assert error.message.startswith("family.yaml")


@pytest.mark.parametrize(
    "value", ["!!int f16", "!!int", "!!bool maybe", "!!bool 1", "!!null x", "!!int " + "9" * 5000]
)
def test_a_tag_that_its_text_does_not_bear_out_is_refused_with_its_line(value: str) -> None:
    with pytest.raises(DocumentError, match=r"family\.yaml:2: version: .* is (no|too large) "):
        parse_document(f"kind: dutchdoor/family@1\nversion: {value}\n", Family, "family.yaml")


@given(
    st.integers(0, len(GOOD) - 1),
    st.sampled_from(
        [
            "",
            "\t",
            ":",
            "{",
            "]",
            "'",
            '"',
            "&a ",
            "*a",
            "!!int ",
            "\n",
            "- ",
            "|",
            "%",
            "@",
            "é",
            "\x00",
            "\x85",
        ]
    ),
)
def test_one_wrong_character_anywhere_is_read_or_refused(at: int, put: str) -> None:
    try:
        parse_document(GOOD[:at] + put + GOOD[at + 1 :], Family, "family.yaml")
    except DocumentError as error:
        assert error.message.startswith("family.yaml")
