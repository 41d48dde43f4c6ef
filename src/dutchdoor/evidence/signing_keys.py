"""The Ed25519 keys that sign, and the public keys that are trusted.

Files are PEM: PKCS#8 for the one private key of this user, SubjectPublicKeyInfo for public keys. A key is
named by the SHA-256 of its 32 raw public bytes. Refuses: a private key that others can read, an empty or
broken key file, keys that are not Ed25519. Keeps no API keys: those live in the ledger.
"""

import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dutchdoor.core import EvidenceError, digest_bytes

if TYPE_CHECKING:  # the libraries cost 0.1 s, and most commands never sign
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_FOLDER = "signing-keys"
TRUST_FOLDER = "trust"
OWN = "own.pem"
LARGEST_KEY_FILE = 10_000  # bytes; an Ed25519 PEM has 120
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class PublicKey:
    """Who may have signed: 32 raw bytes, and where they were found."""

    raw: bytes
    source: str = field(default="", compare=False)

    @property
    def key_id(self) -> str:
        """`sha256:` and the hex digest of the raw public key."""
        return digest_bytes(self.raw)

    def pem(self) -> bytes:
        """The key as PEM SubjectPublicKeyInfo, the form of `trust/*.pub` and of `--trust KEYFILE`."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (64 raw bytes) is this key's over `message`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from securesystemslib.exceptions import UnverifiedSignatureError
        from securesystemslib.signer import Signature, SSlibKey

        key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(self.raw), keyid=self.key_id)
        try:
            key.verify_signature(Signature(self.key_id, signature.hex()), message)
        except UnverifiedSignatureError:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """A private key; it is never shown, printed or compared."""

    private: "Ed25519PrivateKey" = field(repr=False, compare=False)
    public: PublicKey

    @property
    def key_id(self) -> str:
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """64 raw bytes of Ed25519 (RFC 8032)."""
        from securesystemslib.signer import CryptoSigner, SSlibKey

        key = SSlibKey.from_crypto(self.private.public_key(), keyid=self.key_id)
        return bytes.fromhex(CryptoSigner(self.private, key).sign(message).signature)


def new_key(source: str = "made here") -> SigningKey:
    """A fresh key that is written nowhere."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _signing_key(Ed25519PrivateKey.generate(), source)


def own_key(config_folder: Path) -> SigningKey:
    """The key of this user, made on first use: folder 0700, file 0600.

    Raises EvidenceError when the file is broken, or when anyone but its owner can read it.
    """
    path = config_folder / KEY_FOLDER / OWN
    if not path.exists():
        _make(path)
    return _read_private(path)


def own_public_key(config_folder: Path) -> PublicKey | None:
    """The public half of this user's key; null, and nothing is made, when there is none yet."""
    path = config_folder / KEY_FOLDER / OWN
    return _read_private(path).public if path.exists() else None


def trusted_keys(config_folder: Path, extra: Sequence[Path] = ()) -> tuple[PublicKey, ...]:
    """All keys whose signatures count: one's own, those in `trust/*.pub`, and the files named.

    Raises EvidenceError for an empty or broken file, naming it: a key must not fall away silently.
    """
    own = own_public_key(config_folder)
    found = {} if own is None else {own.raw: own}
    for path in [*sorted((config_folder / TRUST_FOLDER).glob("*.pub")), *extra]:
        key = read_public(path)
        found.setdefault(key.raw, key)
    return tuple(found.values())


def read_public(path: Path) -> PublicKey:
    """A public key file. Raises EvidenceError, naming the file, unless it holds one Ed25519 public key."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_KEY_FILE + 1)
    except OSError as error:
        raise EvidenceError(f"can't read the public key {path}: {error.strerror}") from error
    if not data.strip():
        raise EvidenceError(
            f"the public key file {path} is empty", hint="ask its owner for `dutchdoor signing-keys export`"
        )
    return parse_public(data, str(path))


def parse_public(data: bytes, source: str) -> PublicKey:
    """One PEM SubjectPublicKeyInfo of an Ed25519 key. Raises EvidenceError naming `source`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if b"PRIVATE KEY" in data:
        raise EvidenceError(
            f"{source} is a private key",
            hint="trust the public half: `dutchdoor signing-keys export --out FILE`",
        )
    hint = "expected one PEM public key: -----BEGIN PUBLIC KEY-----"
    if len(data) > LARGEST_KEY_FILE or data.count(b"-----BEGIN") != 1:
        raise EvidenceError(f"{source} is no public key file", hint=hint)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceError(f"{source} is no public key file", hint=hint) from error
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceError(f"{source} is no Ed25519 key", hint="only Ed25519 keys sign here")
    return PublicKey(key.public_bytes_raw(), source)


def _make(path: Path) -> None:
    """Write a fresh private key; of two processes that do so at once, the first one's key stays."""
    from cryptography.hazmat.primitives import serialization

    pem = new_key().private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # made 0600
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(temporary)  # fails where a rename would replace
        except FileExistsError:
            return
        finally:
            temporary.unlink()
    except OSError as error:
        raise EvidenceError(
            f"can't write the signing key {path}: {error.strerror}",
            hint="set DUTCHDOOR_CONFIG to a folder that you can write",
        ) from error


def _read_private(path: Path) -> SigningKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"can't read the signing key {path}: {error.strerror}") from error
    if mode & OTHERS:  # whoever read it can sign in this user's name
        raise EvidenceError(
            f"others can read the signing key {path}", hint=f"if nobody has: chmod 600 {path}"
        )
    try:
        key: Any = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise EvidenceError(
            f"the signing key {path} is broken",
            hint="restore it from a backup; a new one is made if you move it away",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EvidenceError(
            f"the signing key {path} is no Ed25519 key", hint="move it away, a new one is made"
        )
    return _signing_key(key, str(path))


def _signing_key(private: "Ed25519PrivateKey", source: str) -> SigningKey:
    return SigningKey(private, PublicKey(private.public_key().public_bytes_raw(), source))
