"""One value of a routes file is replaced in its text; all the rest stays as it is written."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.core import DocumentError
from dutchdoor.family.document import parse_document
from dutchdoor.gateway.routing.edit import flow, put
from dutchdoor.gateway.routing.file import load_routes
from dutchdoor.gateway.routing.swap import set_route

FLOW = """\
# who answers
kind: dutchdoor/routes@1   # ours
targets:
  a: {url: "http://127.0.0.1:1/v1", model: m}   # the small one

  "b:2": {url: 'http://127.0.0.1:2/v1', model: n}
routes:
  # the one that all use
  assistant: [a, "b:2"]   # in order
  split: {a: 90, "b:2": 10} # drawn
  long: {to: [a], unpriced: allow}   # refused otherwise
# the end
"""
BLOCK = """\
kind: dutchdoor/routes@1
routes:
    assistant:
        - a
        # then
        - b
    # between
    split:
        a: 90
        b: 10

    long:
        unpriced: allow
        to:
        - a
        deadline_s: 5
targets:
    b:
        url: http://127.0.0.1:2/v1
        model: n
    a:
        url: http://127.0.0.1:1/v1
        model: m # small"""


def write(folder: Path, text: str) -> Path:
    path = folder / "routes.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "to", "old", "new"),
    [
        ("assistant", ["b:2"], '[a, "b:2"]   # in', '["b:2"]   # in'),
        ("assistant", {"a": 1, "b:2": 2.5}, '[a, "b:2"]   # in', '{a: 1, "b:2": 2.5}   # in'),
        ("split", ["a"], '{a: 90, "b:2": 10} # drawn', "[a] # drawn"),
        ("long", ["b:2", "a"], "to: [a],", 'to: ["b:2", a],'),
    ],
)
def test_only_the_value_of_one_route_changes(tmp_path: Path, name: str, to: Any, old: str, new: str) -> None:
    path = write(tmp_path, FLOW)
    path.chmod(0o640)
    change = set_route(path, name, to)
    assert path.read_text() == FLOW.replace(old, new) == change.after.decode()
    assert change.before.decode() == FLOW
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["routes.yaml"]


@pytest.mark.parametrize(
    ("name", "to", "old", "new"),
    [
        ("assistant", ["b", "a"], "- a\n        # then\n        - b\n", "- b\n        - a\n"),
        ("assistant", {"a": 1}, "- a\n        # then\n        - b\n", "a: 1\n"),
        ("split", {"b": 1, "a": 0}, "a: 90\n        b: 10\n", "b: 1\n        a: 0\n"),
        ("long", ["b", "a"], "        - a\n        dead", "        - b\n        - a\n        dead"),
    ],
)
def test_a_block_stays_a_block(tmp_path: Path, name: str, to: Any, old: str, new: str) -> None:
    path = write(tmp_path, BLOCK)
    set_route(path, name, to)
    assert path.read_text() == BLOCK.replace(old, new)


@pytest.mark.parametrize("text", [FLOW, FLOW.replace("\n", "\r\n"), "\ufeff" + FLOW])
def test_line_ends_and_a_byte_order_mark_stay(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    set_route(path, "assistant", ["a"])
    assert path.read_bytes().decode() == text.replace('[a, "b:2"]', "[a]")


def test_a_new_route_is_made_only_when_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, FLOW)
    with pytest.raises(DocumentError, match="there is no route 'typo'") as caught:
        set_route(path, "typo", ["a"])
    assert "assistant" in str(caught.value.hint) and path.read_text() == FLOW
    set_route(path, "fresh", ["a"], new=True)
    assert path.read_text() == FLOW.replace("# refused otherwise\n", "# refused otherwise\n  fresh: [a]\n")
    path = write(tmp_path, BLOCK)
    set_route(path, "3.5", ["a"], new=True)
    assert load_routes(path).routes[-1].model == "3.5"
    path = write(tmp_path, "kind: dutchdoor/routes@1\ntargets: {a: {weights: x}}\nroutes: {r: [a]}")
    set_route(path, "s", ["a"], new=True)
    assert path.read_text().endswith("routes: {r: [a], s: [a]}")


def test_what_cannot_be_meant_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, FLOW)
    with pytest.raises(DocumentError, match="no target 'zzz'") as caught:
        set_route(path, "assistant", ["zzz"])
    assert caught.value.hint == "targets: a, b:2"
    with pytest.raises(DocumentError, match=r"routes\.yaml:9: routes\.assistant: a target is named twice"):
        set_route(path, "assistant", ["a", "a"])
    with pytest.raises(DocumentError, match="no weight is above 0"):
        set_route(path, "assistant", {"a": 0})
    assert path.read_text() == FLOW
    assert [each.name for each in tmp_path.iterdir()] == ["routes.yaml"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    write(real, FLOW)
    link = tmp_path / "routes.yaml"
    link.symlink_to(real / "routes.yaml")
    set_route(link, "assistant", ["a"])
    assert link.is_symlink() and "assistant: [a] " in (real / "routes.yaml").read_text()


names = st.text(min_size=1, max_size=12).filter(lambda name: max(name) < "\ud800" or min(name) > "\udfff")
values = st.recursive(
    st.one_of(names, st.booleans(), st.integers(-(2**40), 2**40), st.floats(0, 1e9)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3), st.dictionaries(names, inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(names, values, min_size=1, max_size=4), values, st.data())
def test_what_is_put_is_read_back_and_all_else_is_as_it_was(
    held: dict[str, Any], value: Any, data: st.DataObject
) -> None:
    name = data.draw(st.one_of(st.sampled_from(sorted(held)), names))
    text = "# top\n" + "".join(
        f"{flow(key)}: {flow(each)} # {index}\n" for index, (key, each) in enumerate(held.items())
    )
    if "<<" in (name, *held):
        return
    after = put(text, [name], value, name="x")
    assert parse_document(after, dict[str, Any], "x") == {**held, name: value}
    assert after.count(" # ") >= text.count(" # ") and after.startswith("# top\n")
