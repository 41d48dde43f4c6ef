"""Rate limits that the processes of one host share: counts in a file of memory, changed under its lock.

The kernel drops the lock of a process that dies, and a change that was cut off does no harm: see `window`. The
file is made of slots, found by the digest of the key; one whose counts have gone by is free for another key.
"""

import fcntl
import hashlib
import logging
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

from dutchdoor.core import EngineError
from dutchdoor.gateway import log
from dutchdoor.gateway.limits import window
from dutchdoor.gateway.limits.interface import Headers
from dutchdoor.gateway.limits.memory import MemoryLimits

FILE = "limits-1"  # 1: the form of what is in it
SLOT = 1024  # bytes: a digest and the cells, on a boundary of cache lines
DIGEST = 16
END = DIGEST + 8 * window.CELLS
SLOTS = 1 << 14  # keys with limits that are active within a minute; the file takes up only what is used
STEPS = 64  # slots that are looked at for one key
NOBODY = bytes(DIGEST)

assert END <= SLOT


class HostLimits:
    """Exact over all processes that open the same folder; they must be on one host, whose clock it takes."""

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.monotonic, slots: int = SLOTS
    ) -> None:
        """Raises EngineError where the folder cannot be written."""
        self._clock = clock
        self._count = slots
        self._slots: dict[str, tuple[int, bytes, memoryview]] = {}
        self._alone = MemoryLimits(clock)  # for who finds no slot
        self._told = False
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if os.fstat(self._file).st_size < slots * SLOT:
                os.truncate(self._file, slots * SLOT)
            self._map = mmap.mmap(self._file, slots * SLOT)
        except OSError as error:
            raise EngineError(
                f"{path} cannot be written: {error.strerror}", hint="use another --data"
            ) from error
        self._view = memoryview(self._map)

    def take(self, key: str, rpm: int | None, tpm: int | None, tokens: int) -> None:
        if rpm is None and tpm is None:
            return
        file = self._file
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            cells = self._find(key)
            if cells is not None:
                window.take(cells, self._clock(), rpm, tpm, tokens)
                return
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
        self._full()
        self._alone.take(key, rpm, tpm, tokens)

    def give_back(self, key: str, tokens: int, ago_s: float = 0.0) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            cells = self._find(key)
            if cells is not None:
                window.give_back(cells, self._clock(), tokens, ago_s)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def headers(self, key: str, rpm: int | None, tpm: int | None) -> Headers:
        if rpm is None and tpm is None:
            return ()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            cells = self._find(key)
            if cells is not None:
                return window.standing(cells, self._clock()).headers(rpm, tpm)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return self._alone.headers(key, rpm, tpm)

    async def close(self) -> None:
        """Closing again does nothing."""
        if self._file < 0:
            return
        for _, _, cells in self._slots.values():
            cells.release()
        self._slots.clear()
        self._view.release()
        self._map.close()
        os.close(self._file)
        self._file = -1

    def _find(self, key: str) -> memoryview | None:
        """The cells of a key, of a slot that it takes where it has none; null where all are in use."""
        known = self._slots.get(key)
        if known is not None and self._map[known[0] : known[0] + DIGEST] == known[1]:
            return known[2]
        digest = known[1] if known is not None else hashlib.blake2b(key.encode(), digest_size=DIGEST).digest()
        place = self._probe(digest)
        if place is None:
            return None
        if known is not None:
            known[2].release()
        cells = self._view[place + DIGEST : place + END].cast("q")
        self._slots[key] = (place, digest, cells)
        return cells

    def _probe(self, digest: bytes) -> int | None:
        """Where a digest is, or may be put. A slot that was ever used never becomes empty, so a search ends
        at the first empty one; others that it passes may be free again, since nothing in them counts.
        """
        first = int.from_bytes(digest[:8], "little") % self._count
        free: int | None = None
        now = self._clock()
        for step in range(min(STEPS, self._count)):
            place = (first + step) % self._count * SLOT
            whose = self._map[place : place + DIGEST]
            if whose == digest:
                return place
            if whose == NOBODY:
                free = place if free is None else free
                break
            if free is None:
                with self._view[place + DIGEST : place + END].cast("q") as cells:
                    if window.is_idle(cells, now):
                        free = place
        if free is not None:
            self._view[free + DIGEST : free + END] = bytes(END - DIGEST)
            self._view[free : free + DIGEST] = digest
        return free

    def _full(self) -> None:
        if not self._told:
            self._told = True
            message = (
                f"too many keys with limits in one minute for {self._count} places: each process counts alone"
            )
            log.write(log.faults, logging.ERROR, "limits-full", message=message)
