"""Where signed evidence lies: one DSSE envelope a file, named by the address of what is in it.

A file that is broken, misnamed, or signed by nobody who is trusted is left out with a warning and never
opens anything; nothing is ever repaired or overwritten by reading. Salts for commitments are kept beside
it, one a digest.
"""

import asyncio
import datetime
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dutchdoor.core import EvidenceError, canonical_json
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey

PAYLOAD_TYPE = "application/vnd.dutchdoor.evidence.v1+json"
SALT_BYTES = 32  # 256 bits: a commitment to a guessable digest must not be guessable
LARGEST_FILE = 1 << 30  # bytes; evidence of a million cases has about 100 MB


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence with who signed it."""

    evidence: Evidence
    key_id: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """All evidence of a store that holds, and in words what was left out and why."""

    evidence: tuple[Stored, ...]
    warnings: tuple[str, ...]


class EvidenceStore:
    """A folder of signed evidence. `folder` need not exist until something is put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, address: str) -> Path:
        """Where evidence of this address (`sha256:…`) lies."""
        digits = address.removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{64}", digits):  # it becomes a file's name
            raise EvidenceError(f"{address!r} is no address of evidence")
        return self.folder / f"{digits}.json"

    async def put(self, evidence: Evidence, signer: SigningKey) -> str:
        """Sign, write atomically and durably, and return the address.

        What somebody else signed under the same conditions stays: theirs may count where ours does not.
        """
        address = evidence.address
        envelope = dsse.sign(canonical_json(evidence), PAYLOAD_TYPE, signer)
        path = await asyncio.to_thread(self._place, address, signer.key_id)
        await asyncio.to_thread(write_atomically, path, envelope)
        return address

    async def keep(self, envelope: bytes, known: Sequence[PublicKey]) -> str:
        """Keep what somebody else signed, byte for byte, and return its address.

        Raises EvidenceError unless one of `known` signed it and it is sound. Kept is not trusted: it counts
        where its signer does.
        """
        stored = _checked(envelope, tuple(known), "the evidence")
        address = stored.evidence.address
        path = await asyncio.to_thread(self._place, address, stored.key_id)
        await asyncio.to_thread(write_atomically, path, envelope)
        return address

    def _place(self, address: str, key_id: str) -> Path:
        """The address's own file, or one beside it where another signer holds that."""
        path = self.path(address)
        try:
            held = dsse.opened(_bytes(path))[2] if path.exists() else key_id
        except EvidenceError:  # broken: nothing of worth is there
            held = key_id
        return (
            path
            if held == key_id
            else path.with_name(f"{path.stem}.{key_id.removeprefix('sha256:')[:16]}.json")
        )

    async def envelope_of(self, evidence: Evidence, key_id: str | None = None) -> bytes:
        """The signed bytes that hold exactly this, of this signer where one is named.

        Raises EvidenceError when they are not there.
        """
        return await asyncio.to_thread(self._envelope_of, evidence, key_id)

    def _envelope_of(self, evidence: Evidence, key_id: str | None) -> bytes:
        payload = canonical_json(evidence)
        path = self.path(evidence.address)
        for each in (path, *sorted(self.folder.glob(f"{path.stem}.*.json"))):
            if not each.exists():
                continue
            held = _bytes(each)
            signed, _, signer, _ = dsse.opened(held)
            if signed == payload and key_id in (None, signer):
                return held
        raise EvidenceError(f"there is no evidence {path.stem}")

    async def get(self, address: str, trusted: Sequence[PublicKey]) -> Evidence:
        """The evidence of this address. Raises EvidenceError when it is not there or does not hold."""
        path = self.path(address)
        return (await asyncio.to_thread(_read, path, tuple(trusted))).evidence

    async def all(self, trusted: Sequence[PublicKey]) -> Contents:
        """Everything in the store that is intact and signed by a trusted key, oldest first."""
        return await asyncio.to_thread(self.read_all, tuple(trusted))

    def read_all(self, trusted: Sequence[PublicKey]) -> Contents:
        """As `all`, for a caller that has no loop to keep free."""
        found: list[Stored] = []
        warnings: list[str] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(_read(path, tuple(trusted)))
            except EvidenceError as error:
                warnings.append(f"evidence left out: {error.message}")
        found.sort(key=lambda stored: (stored.evidence.made_at, stored.evidence.address))
        return Contents(evidence=tuple(found), warnings=tuple(warnings))


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise EvidenceError(f"{path} is larger than {LARGEST_FILE} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise EvidenceError(f"there is no evidence {path.stem}") from None
    except OSError as error:
        raise EvidenceError(f"can't read {path}: {error.strerror}") from error


def _read(path: Path, trusted: tuple[PublicKey, ...]) -> Stored:
    """One file, checked, and under its own name."""
    stored = _checked(_bytes(path), trusted, str(path))
    if stored.evidence.address.removeprefix("sha256:") != path.name.split(".")[0]:
        raise EvidenceError(f"{path} holds evidence of another address, {stored.evidence.address}")
    return stored


def _checked(envelope: bytes, trusted: tuple[PublicKey, ...], name: str) -> Stored:
    """Signed bytes, checked: canonical envelope, trusted signature, our payload, a moment, each case once."""
    try:
        checked = dsse.check(envelope, trusted, payload_type=PAYLOAD_TYPE)
        if not checked.trusted:
            raise EvidenceError(f"signed by {checked.key_id}, which is not trusted")
        evidence = msgspec.json.decode(checked.payload, type=Evidence)
    except (EvidenceError, msgspec.MsgspecError, RecursionError) as error:
        raise EvidenceError(f"{name}: {error}") from error
    if not _is_moment(evidence.made_at):
        raise EvidenceError(f"{name}: made_at is no moment: {evidence.made_at[:40]!r}")
    if len({outcome.id for outcome in evidence.outcomes}) != len(evidence.outcomes):
        raise EvidenceError(f"{name} holds a case twice")
    return Stored(evidence=evidence, key_id=checked.key_id)


def _is_moment(text: str) -> bool:
    """RFC 3339 in UTC, so that the newest is also the last in the alphabet."""
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", text) is None:
        return False
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:  # the 30th of February
        return False
    return True


class Salts:
    """256-bit salts, made once a digest and kept with mode 0600; whoever has one can open its commitment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def for_digest(self, digest: str) -> bytes:
        """The salt of this digest, made on first use. Raises EvidenceError when that can't be done."""
        known = self.known(digest)
        return known if known is not None else self._make(self._path(digest))

    def known(self, digest: str) -> bytes | None:
        """The salt of this digest, or null when none was made: then no evidence can name it either."""
        path = self._path(digest)
        try:
            salt = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EvidenceError(f"can't read the salt {path}: {error.strerror}") from error
        if len(salt) != SALT_BYTES:
            raise EvidenceError(
                f"the salt {path} has {len(salt)} bytes, expected {SALT_BYTES}",
                hint="restore it from a backup; without it no evidence of these bytes can be matched",
            )
        return salt

    def _path(self, digest: str) -> Path:
        digits = digest.removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise EvidenceError(f"{digest!r} is no digest")
        return self.folder / digits

    def _make(self, path: Path) -> bytes:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")  # made 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(secrets.token_bytes(SALT_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                path.hardlink_to(name)  # of two processes at once the first one's salt stays
            except FileExistsError:
                pass
            finally:
                Path(name).unlink()
            return path.read_bytes()
        except OSError as error:
            raise EvidenceError(
                f"can't write the salt {path}: {error.strerror}", hint="--data names a folder you can write"
            ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name is durable only when its folder is
        finally:
            os.close(folder)
    except OSError as error:
        raise EvidenceError(
            f"can't write {path}: {error.strerror}", hint="--data names a folder you can write"
        ) from error
