"""The store: only what was verified, and nothing that changes afterwards."""

import stat
from pathlib import Path

import pytest
import pytest_asyncio

from dutchdoor.bundle import Verdict
from dutchdoor.bundle.store import admit, default_store
from dutchdoor.core import BundleError

from .conftest import House


@pytest_asyncio.fixture
async def packed(house: House) -> House:
    await house.pack()
    return house


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


async def test_an_admitted_bundle_is_a_private_whole_copy(packed: House, store: Path) -> None:
    admitted = await admit(packed.bundle, [packed.signer.public], store)
    assert admitted.path
    assert admitted.report.verdict is Verdict.VALID
    assert (await packed.verify(admitted.path)).verdict is Verdict.VALID
    assert stat.S_IMODE((store / "bundles").stat().st_mode) == 0o700
    (packed.bundle / "config.json").write_text("{}")  # what happens to the folder afterwards does not matter
    assert (await packed.verify(admitted.path)).verdict is Verdict.VALID


async def test_the_same_bundle_is_kept_once(packed: House, store: Path) -> None:
    first = await admit(packed.bundle, [packed.signer.public], store)
    second = await admit(packed.bundle, [packed.signer.public], store)
    assert first.path == second.path
    assert len(list((store / "bundles").iterdir())) == 1


async def test_a_broken_bundle_is_never_admitted(packed: House, store: Path) -> None:
    config = packed.bundle / "config.json"
    original = config.read_text()
    for good_copy_is_there in (False, True):
        if good_copy_is_there:
            config.write_text(original)
            assert (await admit(packed.bundle, [packed.signer.public], store)).path
        config.write_text("{}")
        admitted = await admit(packed.bundle, [packed.signer.public], store)
        assert admitted.path is None
        assert next(each.file for each in admitted.report.findings) == "config.json"
        assert len(list((store / "bundles").iterdir())) == int(good_copy_is_there)


async def test_a_copy_that_was_damaged_is_made_anew(packed: House, store: Path) -> None:
    first = await admit(packed.bundle, [packed.signer.public], store)
    assert first.path
    (first.path / "config.json").write_text("{}")
    second = await admit(packed.bundle, [packed.signer.public], store)
    assert second.path == first.path
    assert (await packed.verify(second.path)).verdict is Verdict.VALID


async def test_an_unknown_signer_is_admitted_and_said(packed: House, store: Path) -> None:
    admitted = await admit(packed.bundle, [], store)
    assert admitted.path
    assert admitted.report.verdict is Verdict.UNKNOWN_SIGNER


async def test_what_is_no_bundle_is_refused(tmp_path: Path, store: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        await admit(tmp_path, [], store)


async def test_a_store_that_cant_be_written_is_said(packed: House, store: Path) -> None:
    store.write_text("a file where the folder should be")
    with pytest.raises(BundleError, match="can't copy"):
        await admit(packed.bundle, [packed.signer.public], store)


def test_the_default_store_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DUTCHDOOR_STORE", str(tmp_path))
    assert default_store() == tmp_path
    monkeypatch.delenv("DUTCHDOOR_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert default_store() == tmp_path / "c" / "dutchdoor" / "store"
