"""One transaction for a group of requests: those that end are settled, then those that come are admitted.

The group is worked on as a set: its reservations, keys and accounts are read with one statement each, what
changes is one row an account, and the database refuses a row that would pass its budget. What is decided here
is decided on rows that were read in the same transaction, and that no one else can change before it ends.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dutchdoor.ledger.admitting import Admitting
from dutchdoor.ledger.database import Database
from dutchdoor.ledger.keys import now, stamp
from dutchdoor.ledger.requests import Admission
from dutchdoor.ledger.settling import Ending, PriceBook, settle, withdraw
from dutchdoor.ledger.spends import Spends

Operation = Admission | Ending


class GroupWork:
    """What the writer does with a group; `stale` is told the hash of each key that changed since a look-up."""

    def __init__(self, stale: Callable[[str], None]) -> None:
        self.run = ""  # under whose id reservations are made
        self._stale = stale
        self._changed: set[str] = set()
        self._prices = PriceBook()
        self._doubtful: list[str] = []

    def together(self, operations: Sequence[Operation]) -> int:
        """What ends is settled before what comes is admitted, so a request cannot do both in one group."""
        admitted = set()
        for index, operation in enumerate(operations):
            if isinstance(operation, tuple):
                if operation[0] in admitted:
                    return index
            else:
                admitted.add(operation.id)
        return len(operations)

    def do(self, db: Database, operations: Sequence[Operation]) -> list[Any]:
        """What ends first makes room for what comes; an outcome each, in the order given."""
        endings: list[Ending] = []
        admissions: list[Admission] = []
        for operation in operations:
            if isinstance(operation, tuple):
                endings.append(operation)
            else:
                admissions.append(operation)
        stamped = stamp(now())
        spends = Spends()
        settled = iter(settle(db, endings, spends, self._prices, stamped))
        admitting = Admitting(admissions, self.run, stamped)
        if admissions:
            admitting.plan(db, spends)
        if admissions or db.locking:  # else no budget is asked for room, and no other group can be in the way
            spends.read(db)
        admitted = iter(admitting.admit(db))
        spends.write(db)
        self._changed = admitting.stale
        return [next(settled) if isinstance(each, tuple) else next(admitted) for each in operations]

    def committed(self) -> None:
        for hash_ in self._changed:
            self._stale(hash_)
        self._changed = set()

    def undone(self) -> None:
        self._changed = set()
        self._prices.forget()

    def in_doubt(self, operations: Sequence[Operation]) -> None:
        """Who waited for an admission was told that it failed, so it must not go on holding anything."""
        self._doubtful += [each.id for each in operations if isinstance(each, Admission)]

    def reconnected(self, db: Database) -> None:
        """Undo what was in doubt."""
        if not self._doubtful:
            return
        db.begin()
        try:
            withdraw(db, self._doubtful)
            db.commit()
        except BaseException:
            db.rollback()
            raise
        self._doubtful.clear()
