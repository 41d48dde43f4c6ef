"""Digests, copies and names."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.bundle.layout import clashes, shown, unsafe_name
from dutchdoor.bundle.tree import Copy, copy_files, digest_files, family_root
from dutchdoor.core import CHUNK, BundleError, digest_bytes, digest_file

from .conftest import House


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 7])
async def test_a_copy_is_equal_and_its_digest_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    done: list[int] = []
    digests = await copy_files({"a": Copy(tmp_path / "a", tmp_path / "sub" / "b")}, progress=done.append)
    assert (tmp_path / "sub" / "b").read_bytes() == data
    assert digests == {"a": digest_bytes(data)} == await digest_files({"a": tmp_path / "a"})
    assert digest_file(tmp_path / "a") == digests["a"]
    assert sum(done) == size


async def test_a_copy_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(OSError, match="exists"):
        await copy_files({"a": Copy(tmp_path / "a", tmp_path / "b")})
    assert (tmp_path / "b").read_text() == "b"


async def test_links_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "missing"):
        with pytest.raises(BundleError):
            await digest_files({name: tmp_path / name})


async def test_who_stops_waiting_stops_the_threads(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(64 * CHUNK))
    done: list[int] = []
    task = asyncio.create_task(digest_files({"large": tmp_path / "large"}, progress=slowly(done)))
    while not done:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(done) < 60


def slowly(done: list[int]) -> Callable[[int], None]:
    def tell(count: int) -> None:
        time.sleep(0.01)
        done.append(count)

    return tell


def test_the_root_depends_on_everything() -> None:
    nodes = {"a": "sha256:1", "b": "commit:2"}
    roots = {
        family_root("f", "1", nodes),
        family_root("g", "1", nodes),
        family_root("f", "2", nodes),
        family_root("f", "1", {**nodes, "a": "sha256:2"}),
        family_root("f", "1", {"a": "sha256:1"}),
        family_root("f", "1", {"b": "sha256:1", "a": "commit:2"}),
    }
    assert len(roots) == 6
    assert family_root("f", "1", dict(reversed(nodes.items()))) in roots


@pytest.mark.parametrize(
    "name", ["a", "a/b.json", "é/ü.txt", "model-00001-of-00002.safetensors", ".hidden", "a b"]
)
def test_plain_names_are_safe(name: str) -> None:
    assert unsafe_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/a",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "c:x",
        "a\n",
        "a ",
        "a.",
        "e\u0301",
        "\u200b",
    ],
)
def test_names_that_mean_something_else_elsewhere_are_not(name: str) -> None:
    assert unsafe_name(name)


def test_names_that_clash_without_case() -> None:
    assert clashes({"A": 1, "a": 1, "b": 1}) == [("A", "a")]
    assert clashes({"stra\u00dfe": 1, "STRASSE": 1})
    assert clashes({"\ufb01le": 1, "file": 1})
    assert not clashes({"a/b": 1, "a/c": 1})
    assert clashes({"a": 1, "A/b": 1}) == [("A", "a")]
    assert clashes({"x/A/b": 1, "x/a/c": 1}) == [("x/A", "x/a")]
    assert not clashes({"/" * 1_000_000: 1})  # a hostile name costs no more than a deep one


@given(st.text())
def test_whatever_a_name_holds_it_is_shown_printable(name: str) -> None:
    assert all(char.isprintable() or char.isspace() for char in shown(name))


async def test_weights_that_a_hub_cache_links_to_are_packed_as_files(house: House, tmp_path: Path) -> None:
    for name in ("tiny-s", "tiny-l"):  # an open one and a closed one, which the leak check reads
        blobs, snapshot = tmp_path / name / "blobs", tmp_path / name / "snapshots" / "0123"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for number, file in enumerate(sorted((house.folder / name).iterdir())):
            file.rename(blobs / str(number))
            (snapshot / file.name).symlink_to(blobs / str(number))
        (house.folder / name).rmdir()
        (house.folder / name).symlink_to(snapshot)
    await house.pack(evidence=[])
    assert not (house.bundle / "model.safetensors").is_symlink()
    assert not (await house.verify()).findings
