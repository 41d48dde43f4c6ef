"""What may be written for A and B."""

from pathlib import Path

import pytest

from dutchdoor.core import UsageError
from dutchdoor.drill.addresses import (
    BundleAddress,
    MemberAddress,
    UrlAddress,
    WeightsAddress,
    parse_address,
)


def test_a_url_names_its_model_after_the_hash() -> None:
    address = parse_address("https://api.example.org/v1/#org/large-2")
    assert isinstance(address, UrlAddress)
    assert (address.url, address.model, address.kind) == ("https://api.example.org/v1", "org/large-2", "url")


def test_a_url_without_a_model_is_refused_with_the_form() -> None:
    with pytest.raises(UsageError) as caught:
        parse_address("http://127.0.0.1:8080/v1")
    assert caught.value.hint == "write http://127.0.0.1:8080/v1#MODEL"


def test_a_key_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_address("https://user:s3cret@host/v1#m")
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"
    assert "--key-env-a" in (caught.value.hint or "")


def test_a_folder_with_a_config_is_a_model_and_a_gguf_file_too(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "s.gguf").touch()
    folder, file = parse_address(str(tmp_path / "model")), parse_address(str(tmp_path / "s.gguf"))
    assert isinstance(folder, WeightsAddress)
    assert isinstance(file, WeightsAddress)
    assert (folder.kind, file.kind) == ("folder", "gguf")


def test_a_folder_with_one_gguf_is_that_gguf(tmp_path: Path) -> None:
    (tmp_path / "s.gguf").touch()
    address = parse_address(str(tmp_path))
    assert isinstance(address, WeightsAddress)
    assert address.path == tmp_path / "s.gguf"


def test_a_folder_with_several_ggufs_needs_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(UsageError, match="2 GGUF files"):
        parse_address(str(tmp_path))


def test_a_bundle_stays_one_when_its_dossier_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "dutchdoor").mkdir()
    assert isinstance(parse_address(str(tmp_path)), BundleAddress)


def test_a_member_is_named_after_its_manifest_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "family.yaml").touch()
    for text in (f"{tmp_path}/family.yaml#gable-s", f"{tmp_path}#gable-s"):
        address = parse_address(text)
        assert isinstance(address, MemberAddress)
        assert (address.manifest, address.member) == (tmp_path / "family.yaml", "gable-s")


def test_a_file_with_a_hash_in_its_name_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a#b.gguf").touch()
    assert isinstance(parse_address(str(tmp_path / "a#b.gguf")), WeightsAddress)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "there is no model at"),
        ("family.yaml", "names a whole family"),
        ("family.yaml#", "does not say which member"),
        ("other.yaml#m", "there is no family manifest at"),
        ("notes.txt", "is not a model"),
        ("empty", "holds no model"),
        ("", "holds a whole family"),
    ],
)
def test_what_is_no_model_is_refused_with_a_remedy(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "family.yaml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=says) as caught:
        parse_address(f"{tmp_path}/{name}" if name else str(tmp_path))
    assert caught.value.hint


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://host:port/v1", "http://host:99999", "http://", "http:///v1"]
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no address of a server") as caught:
        parse_address(f"{url}#m")
    assert caught.value.hint
