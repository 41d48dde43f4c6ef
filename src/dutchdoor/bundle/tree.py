"""Digests of files, of components, and of the whole family: one root that every bundle of a release shares.

A file has the SHA-256 of its bytes, a component the digest over its files' names and digests, the family the
digest over its components, where a closed component stands with its commitment instead of its digest. Hashing
runs in threads and streams; another hash (BLAKE3) comes in as another `algorithm`. Never holds a whole file.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dutchdoor.core import CHUNK, BundleError, digest_value

ALGORITHM = "sha256"
FICLONE = 0x40049409  # linux/fs.h: share the blocks of a file instead of copying them
MOST_THREADS = 8  # SHA-256 is bound by the core, a disk by far fewer readers
Progress = Callable[[int], None]  # is told of bytes as they are done


class Copy(NamedTuple):
    """One file to copy: from where, to where."""

    source: Path
    target: Path


def no_progress(done: int) -> None:
    """Tells nobody."""


async def digest_files(
    files: Mapping[str, Path], *, algorithm: str = ALGORITHM, progress: Progress = no_progress
) -> dict[str, str]:
    """`{name: "sha256:…"}` of the files, hashed in parallel.

    Raises BundleError for what is no regular file (a link that was put there meanwhile included).
    """
    stop = _Stop(progress)
    jobs = {name: (_digest, (path, algorithm, stop)) for name, path in files.items()}
    return await _in_threads(jobs, stop)


async def copy_files(
    files: Mapping[str, Copy], *, algorithm: str = ALGORITHM, progress: Progress = no_progress
) -> dict[str, str]:
    """Copy the files and give the digest of what was written. Blocks are shared where the file system can.

    Never makes hard links: the source can change afterwards, the copy must not.
    """
    stop = _Stop(progress)
    jobs = {name: (_copy, (pair, algorithm, stop)) for name, pair in files.items()}
    return await _in_threads(jobs, stop)


def family_root(family: str, version: str, nodes: Mapping[str, str]) -> str:
    """One digest for a release: `{component id: digest or commitment}` with the family's name and version."""
    return digest_value(
        {"kind": "dutchdoor/family-tree@1", "family": family, "version": version, "nodes": dict(nodes)}
    )


class _Stop:
    """Progress that ends the threads at their next piece, when the one who waits for them has gone."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.now = progress, False

    def __call__(self, done: int) -> None:
        if self.now:
            raise BundleError("stopped")
        self.progress(done)


async def _in_threads(
    jobs: Mapping[str, tuple[Callable[..., str], tuple[object, ...]]], stop: _Stop
) -> dict[str, str]:
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="digest")
    try:
        futures = [loop.run_in_executor(pool, function, *arguments) for function, arguments in jobs.values()]
        digests: Sequence[str] = await asyncio.gather(*futures)
    finally:
        stop.now = True
        pool.shutdown(wait=True, cancel_futures=True)
    return dict(zip(jobs, digests, strict=True))


def _digest(path: Path, algorithm: str, progress: Progress) -> str:
    with contextlib.closing(_Plain(path)) as source:
        hashed = hashlib.new(algorithm)
        buffer = memoryview(bytearray(CHUNK))
        while count := source.read_into(buffer):
            hashed.update(buffer[:count])
            progress(count)
    return f"{algorithm}:{hashed.hexdigest()}"


def _copy(pair: Copy, algorithm: str, progress: Progress) -> str:
    pair.target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with (
        contextlib.closing(_Plain(pair.source)) as source,
        open(pair.target, "w+b", buffering=0, opener=lambda path, _: os.open(path, flags, 0o644)) as target,
    ):
        if _cloned(source.descriptor, target.fileno()):
            return _digest(pair.target, algorithm, progress)
        hashed = hashlib.new(algorithm)
        buffer = memoryview(bytearray(CHUNK))
        while count := source.read_into(buffer):
            piece = buffer[:count]
            hashed.update(piece)
            while piece:  # a raw write may be short
                piece = piece[target.write(piece) :]
            progress(count)
    return f"{algorithm}:{hashed.hexdigest()}"


def _cloned(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


class _Plain:
    """A regular file, opened so that no link is followed and no pipe or device is waited for."""

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError(f"can't read {path}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            os.close(self.descriptor)
            raise BundleError(f"{path} is no plain file")

    def read_into(self, buffer: memoryview) -> int:
        return os.readv(self.descriptor, [buffer])

    def close(self) -> None:
        os.close(self.descriptor)
