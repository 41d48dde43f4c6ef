"""Connections that only read, each used by one thread at a time, off the event loop."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from dutchdoor.core import DutchdoorError, LedgerError
from dutchdoor.ledger.database import Database

T = TypeVar("T")
KEPT = 4  # connections that wait for the next read


class Readers:
    """Lends connections of `connect()`."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        self._connect = connect
        self._free: list[Database] = []
        self._lock = threading.Lock()
        self._closed = False

    async def read(self, read: Callable[[Database], T]) -> T:
        """Call `read` in a thread, with a connection that sees one state; returns what it returned."""
        if self._closed:
            raise LedgerError("the ledger is closed")
        return await asyncio.to_thread(self._read, read)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for db in free:
            db.close()

    def _read(self, read: Callable[[Database], T]) -> T:
        db, used = self._take()
        try:
            try:
                db.snapshot()
            except Exception as error:
                if not used or db.meaning(error) != "lost":
                    raise
                db.close()  # it broke while it lay here
                db = self._connect()
                db.snapshot()
            found = read(db)
            db.commit()
        except BaseException as error:
            self._give(db, broken=db.meaning(error) == "lost")
            if isinstance(error, DutchdoorError) or not isinstance(error, Exception):
                raise
            if db.meaning(error) == "one":  # a fault of the one who reads
                raise
            raise LedgerError(f"the ledger cannot be read: {error}", hint="look at where it lies") from error
        self._give(db)
        return found

    def _take(self) -> tuple[Database, bool]:
        with self._lock, contextlib.suppress(IndexError):
            return self._free.pop(), True
        return self._connect(), False

    def _give(self, db: Database, *, broken: bool = False) -> None:
        db.rollback()
        with self._lock:
            if not broken and not self._closed and len(self._free) < KEPT:
                self._free.append(db)
                return
        db.close()
