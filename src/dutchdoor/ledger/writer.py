"""The one thread that writes: all that waits is one transaction, so a lone write costs one flush and many
share one.

Nothing is acknowledged before its commit. What is at fault in a group fails alone: the group is undone, and
each of it is tried by itself. Knows transactions and futures; what is done in them, see
`dutchdoor.ledger.group`.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from dutchdoor.core import DutchdoorError, LedgerError
from dutchdoor.ledger.database import Database

T = TypeVar("T")
LARGEST_GROUP = 1024  # operations of one transaction; bounds how long the first of them waits
MOST_TURNS = 4  # of the loop, for which a group waits while more comes
ATTEMPTS = 6  # of a transaction that met another host's
PAUSE_S = 0.01  # before the second attempt; each pause is twice the one before

Change = Callable[[Database], Any]  # a change to keys or budgets, in a transaction of its own
Operation = Any  # what a group consists of: the writer only hands it on
Waiting = tuple["asyncio.Future[Any]", Operation]
Done = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Work(Protocol):
    """What is done with the operations of a group; called in the writer's thread."""

    def do(self, db: Database, operations: Sequence[Operation]) -> list[Any]:
        """Do all of them in the transaction that is open; an outcome each, an exception where it is refused."""
        ...

    def committed(self) -> None:
        """The last `do` is durable."""
        ...

    def undone(self) -> None:
        """The last `do` is undone."""
        ...

    def in_doubt(self, operations: Sequence[Operation]) -> None:
        """The connection broke while these were committed: they may have been, and their callers think not."""
        ...

    def together(self, operations: Sequence[Operation]) -> int:
        """How many of the first operations may share a transaction."""
        ...


class Writer:
    """Runs work on a connection, and on `connect()`'s once that broke, in a thread of its own; `commits`
    counts transactions.
    """

    def __init__(self, db: Database, connect: Callable[[], Database], work: Work) -> None:
        self.commits = 0
        self._connect = connect
        self._work = work
        self._db: Database | None = db
        self._waiting: deque[Waiting] = deque()
        self._looking: asyncio.AbstractEventLoop | None = None  # that will wake the thread
        self._busy = False  # with a group
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="dutchdoor-ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, operation: Operation) -> "asyncio.Future[Any]":
        """Have an operation done with whatever else waits; the future is done once it is durable."""
        if self._closed:
            raise LedgerError("the ledger is closed")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((future, operation))
        self._look_soon(loop)
        return future

    async def change(self, change: Callable[[Database], T]) -> T:
        """Run a change in a transaction of its own that nothing runs beside; returns what it returned."""
        done: T = await self.put(_Alone(change))
        return done

    async def close(self) -> None:
        """Finish what waits, then end the thread."""
        if self._closed:
            return
        self._closed = True
        self._wake.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- in the loop

    def _look_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._busy and (self._looking is None or self._looking.is_closed()):
            self._looking = loop
            loop.call_soon(self._look, loop, 0, 0)

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int, turns: int) -> None:
        """Wake the thread when the loop brings no more at once: a flush costs what twenty operations cost, so
        what comes together is worth a turn of waiting.
        """
        waits = len(self._waiting)
        if seen < waits < LARGEST_GROUP and turns < MOST_TURNS:
            loop.call_soon(self._look, loop, waits, turns + 1)
            return
        self._looking = None
        if waits and not self._busy:
            self._busy = True
            self._wake.put(None)

    def _deliver(self, done: list[Done]) -> None:
        """Wake each loop once for all of its operations."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Done]] = {}
        for each in done:
            by_loop.setdefault(each[0].get_loop(), []).append(each)
        self._busy = False
        for loop, mine in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._resolve, loop, mine)

    def _resolve(self, loop: asyncio.AbstractEventLoop, done: list[Done]) -> None:
        for future, value, error in done:
            if future.done():  # cancelled by the one who waited; the write stands
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        if self._waiting:
            self._look_soon(loop)

    # -- in the thread

    def _run(self) -> None:
        try:
            while not self._closed or self._waiting:
                if not self._closed:
                    self._wake.get()
                group = self._gather()
                if group:
                    self._deliver(self._group(group))
                    continue
                self._busy = False  # another loop's operations went with the last group
                if self._waiting:
                    self._wake.put(None)
        finally:
            self._drop()

    def _gather(self) -> list[Waiting]:
        group: list[Waiting] = []
        while self._waiting and len(group) < LARGEST_GROUP:
            if isinstance(self._waiting[0][1], _Alone):
                return group or [self._waiting.popleft()]
            group.append(self._waiting.popleft())
        if len(group) > 1:
            count = self._work.together([operation for _, operation in group])
            self._waiting.extendleft(reversed(group[count:]))
            del group[count:]
        return group

    def _group(self, group: list[Waiting]) -> list[Done]:
        operations = [operation for _, operation in group]
        try:
            if isinstance(operations[0], _Alone):
                outcomes = [self._transaction(operations[0].change, alone=True)]
            else:
                outcomes = self._transaction(lambda db: self._work.do(db, operations), operations)
        except _FaultError as fault:
            if fault.of_one and len(group) > 1:
                return [done for each in group for done in self._group([each])]
            return [(future, None, fault.error) for future, _ in group]
        done: list[Done] = []
        for (future, _), outcome in zip(group, outcomes, strict=True):
            refused = isinstance(outcome, BaseException)
            done.append((future, None, outcome) if refused else (future, outcome, None))
        return done

    def _transaction(
        self, do: Callable[[Database], Any], operations: Sequence[Operation] = (), *, alone: bool = False
    ) -> Any:
        """Do something and commit it; tries again where another host was in the way."""
        for attempt in range(1, ATTEMPTS + 1):
            begun = committing = False
            try:
                db = self._connected()
                db.begin(alone=alone)
                begun = True
                outcome = do(db)
                committing = True
                db.commit()
            except Exception as error:
                meaning = self._undo(error)
                if meaning == "lost" and committing:
                    self._work.in_doubt(operations)
                again = meaning == "again" or (meaning == "lost" and not begun and attempt == 1)
                if not again or attempt == ATTEMPTS:
                    raise _FaultError(error, of_one=meaning == "one") from error
                time.sleep(PAUSE_S * 2 ** (attempt - 1) if meaning == "again" else 0)
            else:
                self.commits += 1
                self._work.committed()
                return outcome
        raise AssertionError("unreachable")  # pragma: no cover

    def _connected(self) -> Database:
        if self._db is None:
            self._db = self._connect()
        return self._db

    def _undo(self, error: Exception) -> str:
        self._work.undone()
        if self._db is None:
            return "all"  # it could not even be connected
        meaning = self._db.meaning(error)
        if meaning == "lost":
            self._drop()
        else:
            self._db.rollback()
        return meaning

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class _Alone:
    """A change that is a group of its own."""

    __slots__ = ("change",)

    def __init__(self, change: Change) -> None:
        self.change = change


class _FaultError(Exception):
    """Why a transaction came to nothing, as those who wait for it should see it."""

    def __init__(self, error: Exception, *, of_one: bool) -> None:
        self.of_one = of_one
        self.error: BaseException = error
        if not isinstance(error, DutchdoorError):
            self.error = LedgerError(f"the ledger cannot be written: {error}", hint="look at where it lies")
            self.error.__cause__ = error
