"""Swapping without a restart: a changed file becomes the running gateway's routes, or is refused with its words.

A file that cannot be used leaves all as it was. Requests under way end on the targets they began with: the
gateway closes a retired target after its last one.
"""

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from dutchdoor.core import DutchdoorError, digest_file
from dutchdoor.gateway import log
from dutchdoor.gateway.routing.opening import Built
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.routing.status import Status
from dutchdoor.gateway.targets.interface import Target

POLL_S = 0.1  # between two looks at the file: a stat costs some microseconds

Stamp = tuple[int, int, int]  # mtime in ns, inode, size


class Source(Protocol):
    """Where routes come from. `watched`: whether a change of the file alone is a reason to build again."""

    path: Path
    watched: bool

    async def build(self) -> Built:
        """Raises DutchdoorError, and then nothing has changed."""
        ...


class Swaps(Protocol):
    """A running gateway."""

    def swap(self, routes: Mapping[str, Route], retired: Iterable[Target]) -> None:
        """Route by these from the next request on; close the retired when their requests have ended."""
        ...


class Reloader:
    """Watches a source for a running gateway, and says how each load went."""

    def __init__(self, source: Source, *, poll_s: float = POLL_S) -> None:
        self._source = source
        self._poll_s = poll_s
        self._gateway: Swaps | None = None
        self._report: Callable[[bytes], None] | None = None
        self._base_url: str | None = None
        self._stamp: Stamp | None = None  # of what was loaded last
        self._seen: Stamp | None = None  # of a file that may still be written to
        self._digest: str | None = None
        self._error: str | None = None
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def first(self, building: Awaitable[Built] | None = None) -> Built:
        """The routes to start with, which `building` makes where more must be known of them than the source
        tells; raises DutchdoorError.
        """
        self._stamp = _stamp(self._source.path)
        built = await (building or self._source.build())
        self._digest = built.digest
        return built

    def start(
        self,
        gateway: Swaps,
        *,
        report: Callable[[bytes], None] | None = None,
        base_url: str | None = None,
    ) -> None:
        """Watch from now on; `report` takes a `Status` in JSON after each load, and the first one now."""
        self._gateway, self._report, self._base_url = gateway, report, base_url
        self._tell()
        self._task = asyncio.ensure_future(self._watch())

    def ask(self) -> None:
        """Load again now, whether the file has changed or not (SIGHUP)."""
        self._asked.set()

    async def stop(self) -> None:
        """Watch no more; stopping again does nothing."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._poll_s)
            if self._asked.is_set():
                self._asked.clear()
                await self._load()
            elif self._source.watched and self._has_changed():
                await self._load()

    def _has_changed(self) -> bool:
        """Whether there is a new file that is whole: one put in place by a rename is at once, one that is
        written to when it has stayed the same between two looks.
        """
        stamp = _stamp(self._source.path)
        if stamp is None or stamp == self._stamp:  # a missing file is one that is being replaced
            return False
        renamed = self._stamp is None or stamp[1] != self._stamp[1]
        settled = stamp == self._seen
        self._seen = stamp
        return renamed or settled

    async def _load(self) -> None:
        assert self._gateway is not None
        self._stamp = _stamp(self._source.path)
        self._error = None
        try:
            if self._stamp is None and self._source.path.exists():  # reading a pipe would never end
                raise OSError(errno.EINVAL, "it is no file")
            self._digest = digest_file(self._source.path)
            built = await self._source.build()
        except DutchdoorError as error:
            self._refuse(error.message + (f" ({error.hint})" if error.hint else ""))
        except OSError as error:
            self._refuse(f"{self._source.path} can't be read: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - the edge: a fault of ours must not stop the server
            log.faults.exception('{"event": "routes-refused"}')
            self._refuse(f"a fault in loading it: {type(error).__name__}")
        else:
            self._digest = built.digest or self._digest
            self._gateway.swap(built.routes, built.retired)
            log.write(log.faults, logging.INFO, "routes", digest=self._digest, routes=list(built.routes))
        self._tell()

    def _refuse(self, words: str) -> None:
        self._error = words
        log.write(log.faults, logging.ERROR, "routes-refused", digest=self._digest, message=words)

    def _tell(self) -> None:
        if self._report is None:
            return
        status = Status(
            pid=os.getpid(),
            routes=str(self._source.path.absolute()),
            digest=self._digest,
            error=self._error,
            base_url=self._base_url,
        )
        try:
            self._report(msgspec.json.encode(status))
        except (OSError, DutchdoorError) as error:  # who waits for it is told by time
            log.write(log.faults, logging.ERROR, "status", message=str(error))


def _stamp(path: Path) -> Stamp | None:
    """Null where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size) if stat.S_ISREG(found.st_mode) else None
