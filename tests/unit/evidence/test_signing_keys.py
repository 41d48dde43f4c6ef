"""Keys: made once, private, and never silently left out."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dutchdoor.core import EvidenceError
from dutchdoor.evidence.signing_keys import (
    new_key,
    own_key,
    own_public_key,
    parse_public,
    read_public,
    trusted_keys,
)


def own_file(folder: Path) -> Path:
    return folder / "signing-keys" / "own.pem"


def test_the_own_key_is_made_on_first_use_and_stays(tmp_path: Path) -> None:
    key = own_key(tmp_path)
    assert own_key(tmp_path).key_id == key.key_id
    assert key.public.verifies(own_key(tmp_path).sign(b"hello"), b"hello")


def test_the_own_key_is_open_to_its_owner_only(tmp_path: Path) -> None:
    own_key(tmp_path)
    assert stat.S_IMODE(own_file(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(own_file(tmp_path).parent.stat().st_mode) == 0o700
    assert [path.name for path in own_file(tmp_path).parent.iterdir()] == ["own.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_key_that_others_can_read_or_write_is_refused_with_a_remedy(tmp_path: Path, mode: int) -> None:
    own_key(tmp_path)
    own_file(tmp_path).chmod(mode)
    with pytest.raises(EvidenceError, match="others can read") as caught:
        own_key(tmp_path)
    assert f"chmod 600 {own_file(tmp_path)}" in str(caught.value.hint)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_broken_own_key_is_named_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    own_key(tmp_path)
    own_file(tmp_path).write_bytes(content)
    with pytest.raises(EvidenceError, match=r"own\.pem is broken"):
        own_key(tmp_path)
    assert own_file(tmp_path).read_bytes() == content


def test_an_own_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    own_key(tmp_path)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    own_file(tmp_path).write_bytes(pem)
    with pytest.raises(EvidenceError, match="no Ed25519"):
        own_key(tmp_path)


def test_of_many_that_make_the_key_at_once_all_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = {key.key_id for key in pool.map(lambda _: own_key(tmp_path), range(16))}
    assert len(ids) == 1


def test_no_write_permission_is_said_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "signing-keys").write_text("a file where the folder should be")
    with pytest.raises(EvidenceError, match="can't write the signing key") as caught:
        own_key(tmp_path)
    assert "DUTCHDOOR_CONFIG" in str(caught.value.hint)


def test_asking_who_is_trusted_makes_no_key(tmp_path: Path) -> None:
    assert trusted_keys(tmp_path) == ()
    assert own_public_key(tmp_path) is None
    assert not own_file(tmp_path).exists()


def test_trusted_are_the_own_key_the_folder_and_the_files_named(tmp_path: Path) -> None:
    kept, named = new_key().public, new_key().public
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "lab.pub").write_bytes(kept.pem())
    (tmp_path / "named.pem").write_bytes(named.pem())
    own = own_key(tmp_path).public
    assert trusted_keys(tmp_path, [tmp_path / "named.pem", tmp_path / "named.pem"]) == (own, kept, named)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"ssh-ed25519 AAAA", "no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        (new_key().public.pem() * 2, "no public key"),
        (new_key().public.pem() + b"x" * 20_000, "no public key"),
    ],
)
def test_an_empty_or_broken_trusted_key_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "lab.pub").write_bytes(content)
    with pytest.raises(EvidenceError, match=words) as caught:
        trusted_keys(tmp_path)
    assert "lab.pub" in caught.value.message


def test_a_private_key_is_never_taken_for_a_public_one(tmp_path: Path) -> None:
    own_key(tmp_path)
    with pytest.raises(EvidenceError, match="is a private key") as caught:
        read_public(own_file(tmp_path))
    assert "signing-keys export" in str(caught.value.hint)


def test_a_public_key_of_another_kind_is_refused() -> None:
    pem = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(EvidenceError, match=r"ec\.pub is no Ed25519 key"):
        parse_public(pem, "ec.pub")


def test_a_private_key_is_never_printed() -> None:
    key = new_key()
    assert "private" not in repr(key)
    assert parse_public(key.public.pem(), "x") == key.public
