"""The private store from which `run` and `serve` load: what is loaded there is what was verified.

A bundle is hashed while it is copied, and what was copied is judged, so that nothing can change between check
and use. An entry is named by the digest of all it holds. Holds no bundle with findings.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dutchdoor.bundle.layout import listing
from dutchdoor.bundle.tree import Copy, Progress, copy_files, no_progress
from dutchdoor.bundle.verify import (
    READ_WHOLE,
    Contents,
    Report,
    examine,
    read_contents,
    read_small,
    require_bundle,
)
from dutchdoor.core import BundleError, digest_tree
from dutchdoor.evidence.signing_keys import PublicKey

PRIVATE = 0o700
ENTRIES = "bundles"


@dataclass(frozen=True)
class Admitted:
    """Where the verified copy lies, and what was found. `path` is null when there were findings.

    A bundle that holds but whose signer is unknown is admitted: the caller reads `report.verdict`.
    """

    path: Path | None
    report: Report


async def admit(
    folder: Path, trusted: Sequence[PublicKey], store: Path, *, progress: Progress = no_progress
) -> Admitted:
    """Copy a bundle into the store and verify the copy. A copy that is there already is used.

    Raises BundleError when `folder` is no bundle, or can't be read or copied.
    """
    require_bundle(folder)
    try:
        entries = await asyncio.to_thread(_opened, store)
        kept = await _kept(folder, trusted, entries, progress)
        return kept or await _copied(folder, trusted, entries, progress)
    except OSError as error:
        raise BundleError(
            f"can't copy {folder} into the store {store}: {error.strerror or error}",
            hint="the store needs as much room as the bundle: DUTCHDOOR_STORE names another folder",
        ) from error


def default_store() -> Path:
    """Where verified copies lie: DUTCHDOOR_STORE, else ~/.cache/dutchdoor/store."""
    if named := os.environ.get("DUTCHDOOR_STORE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dutchdoor" / "store"


def _opened(store: Path) -> Path:
    """The store's folder of entries, made if need be and open to its owner only."""
    entries = store / ENTRIES
    entries.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    entries.chmod(PRIVATE)
    return entries


async def _kept(
    folder: Path, trusted: Sequence[PublicKey], entries: Path, progress: Progress
) -> Admitted | None:
    """What is known without a copy: findings in the folder, or the store's own copy of the same content."""
    if not await asyncio.to_thread(_any, entries):
        return None
    contents = await read_contents(folder, progress=progress)
    report = examine(folder, contents, trusted)
    if report.findings:
        return Admitted(None, report)
    entry = _entry(entries, contents)
    if not await asyncio.to_thread(entry.is_dir):
        return None
    try:
        kept = await read_contents(entry)
    except BundleError:
        kept = Contents({}, {})
    if dict(kept.digests) != dict(contents.digests) or kept.findings:  # damaged since: made anew
        await asyncio.to_thread(shutil.rmtree, entry)
        return None
    return Admitted(entry, report)


async def _copied(folder: Path, trusted: Sequence[PublicKey], entries: Path, progress: Progress) -> Admitted:
    found = await asyncio.to_thread(listing, folder)
    incoming = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=entries, prefix=".incoming-"))  # made 0700
    try:
        pairs = {name: Copy(path, incoming / name) for name, path in found.files.items()}
        digests = await copy_files(pairs, progress=progress)
        ours = [name for name in READ_WHOLE if name in digests]
        read = {name: await asyncio.to_thread(read_small, incoming / name) for name in ours}
        contents = Contents(digests, read, found.findings)
        report = examine(folder, contents, trusted)
        if report.findings:
            return Admitted(None, report)
        entry = _entry(entries, contents)
        await asyncio.to_thread(_keep, incoming, entry)
        return Admitted(entry, report)
    finally:
        await asyncio.to_thread(shutil.rmtree, incoming, ignore_errors=True)


def _any(folder: Path) -> bool:
    return any(folder.iterdir())


def _keep(incoming: Path, entry: Path) -> None:
    if not entry.exists():  # else another process was first, with the same content
        incoming.rename(entry)


def _entry(entries: Path, contents: Contents) -> Path:
    return entries / digest_tree(contents.digests).removeprefix("sha256:")
