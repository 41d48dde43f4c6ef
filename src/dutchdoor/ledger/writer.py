"""The one thread that writes: all that waits is one transaction, so a lone write costs one flush and many
share one.

A write is acknowledged only after its commit. A write that fails undoes itself alone, not its neighbours.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from dutchdoor.core import LedgerError

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], Any]
LARGEST_GROUP = 1024  # writes in one transaction; bounds how long the first of them waits


class Job:
    """A write with the loop and future that wait for it."""

    __slots__ = ("future", "loop", "outcome", "write")

    def __init__(self, write: Write, loop: asyncio.AbstractEventLoop) -> None:
        self.write = write
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.outcome: tuple[Any, BaseException | None] = (None, None)


class Writer:
    """Runs writes on `connect()`'s connection in a thread of its own; `commits` counts transactions."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self.commits = 0
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._connect = connect
        self._thread = threading.Thread(target=self._run, name="dutchdoor-ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def write(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Run a write; returns what it returned once that is durable, or raises what it raised."""
        if self._closed:
            raise LedgerError("the ledger is closed")
        job = Job(write, asyncio.get_running_loop())
        self._queue.put(job)
        done: T = await job.future
        return done

    async def close(self) -> None:
        """Finish what waits, then end the thread."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        connection = self._connect()
        try:
            open_ = True
            while open_:
                jobs, open_ = self._gather()
                if jobs:
                    self._commit(connection, jobs)
                    _deliver(jobs)
        finally:
            connection.close()

    def _gather(self) -> tuple[list[Job], bool]:
        jobs: list[Job] = []
        job = self._queue.get()
        with contextlib.suppress(queue.Empty):
            while job is not None:
                jobs.append(job)
                if len(jobs) >= LARGEST_GROUP:
                    return jobs, True
                job = self._queue.get_nowait()
            return jobs, False
        return jobs, True

    def _commit(self, connection: sqlite3.Connection, jobs: list[Job]) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                connection.execute("SAVEPOINT job")
                try:
                    job.outcome = (job.write(connection), None)
                except Exception as error:  # noqa: BLE001 - handed to the one who waits for it
                    job.outcome = (None, _failure(error) if isinstance(error, sqlite3.Error) else error)
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
            self.commits += 1
        except (
            sqlite3.Error
        ) as error:  # disk full, read-only, locked for too long: nothing of the group is kept
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            for job in jobs:
                job.outcome = (None, _failure(error))


def _failure(error: sqlite3.Error) -> LedgerError:
    failure = LedgerError(f"the ledger cannot be written: {error}", hint="look at the disk it lies on")
    failure.__cause__ = error
    return failure


def _deliver(jobs: list[Job]) -> None:
    """Wake each loop once for all of its jobs."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, mine in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, mine)


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():  # cancelled by the one who waited; the write stands
            continue
        value, error = job.outcome
        if error is None:
            job.future.set_result(value)
        else:
            job.future.set_exception(error)
