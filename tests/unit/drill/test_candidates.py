"""What is known of a model before it is asked."""

from pathlib import Path

import pytest

from dutchdoor.bundle.licences import known_text
from dutchdoor.core import BundleError
from dutchdoor.drill.addresses import parse_address
from dutchdoor.drill.candidates import Candidate, Options, Place, prepare
from tests.fakes.models import make_model

README = "---\nlicense: {}\n---\n# a model\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("candidates") / "model", "llama")


@pytest.fixture(autouse=True)
def _bare(model: Path) -> None:
    for name in ("README.md", "LICENSE"):
        (model / name).unlink(missing_ok=True)


async def look(model: Path, tmp_path: Path) -> Candidate:
    return await prepare(
        parse_address(str(model)), Options(letter="a"), Place(data=tmp_path, trusted=(), streams=4)
    )


async def test_a_folder_without_a_word_on_its_licence_is_unknown(model: Path, tmp_path: Path) -> None:
    found = await look(model, tmp_path)
    assert (found.license, found.license_source, found.price) == (None, None, None)
    assert (found.parameters, found.context_length) == (92_800, 512)


async def test_a_licence_is_named_with_who_says_so(model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text(README.format("apache-2.0"))
    found = await look(model, tmp_path)
    assert (found.license, found.license_source, found.notes) == ("Apache-2.0", "its README", ())


async def test_a_licence_file_that_nobody_knows_is_to_be_read(model: Path, tmp_path: Path) -> None:
    (model / "LICENSE").write_text("You may look at this model on Tuesdays.\n")
    found = await look(model, tmp_path)
    assert (found.license, found.license_source) == (None, "read its licence file")


async def test_a_readme_and_a_licence_file_that_disagree_are_noted(model: Path, tmp_path: Path) -> None:
    (model / "LICENSE").write_text(known_text("Apache-2.0", holder="A", year=2026))
    (model / "README.md").write_text(README.format("mit"))
    found = await look(model, tmp_path)
    assert found.license == "MIT"
    assert found.notes
    assert "Apache-2.0" in found.notes[0]


async def test_a_bundle_without_its_dossier_is_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    (folder / "dutchdoor").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="no bundle") as caught:
        await look(folder, tmp_path)
    assert caught.value.hint
