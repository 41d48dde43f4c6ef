"""The ledger: reserve before a request goes upstream, settle before its response is closed, bill
afterwards.

Budgets are held by a conditional update in the database, never by a cache: concurrent clients cannot
overspend one by anything. Days and months are UTC, and a request belongs to the period in which it was
admitted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar, cast

from dutchdoor.core import DutchdoorError, LedgerError
from dutchdoor.ledger import accounts, runs, schema
from dutchdoor.ledger.accounts import Budget, Change
from dutchdoor.ledger.bill import Bill, read_bill
from dutchdoor.ledger.database import Database, Place, connect, is_url, named
from dutchdoor.ledger.group import GroupWork
from dutchdoor.ledger.keys import Key, NewKey, Per, hash_secret
from dutchdoor.ledger.lookup import KeyCache
from dutchdoor.ledger.readers import Readers
from dutchdoor.ledger.requests import (
    LARGEST_REQUEST,
    Admission,
    Balance,
    BudgetError,
    KeyRefusedError,
    Reservation,
    Settled,
    Used,
)
from dutchdoor.ledger.settling import interrupt
from dutchdoor.ledger.writer import Writer

T = TypeVar("T")
FILE = "ledger.sqlite3"
SERVING = "serving"  # the folder of run files, beside the ledger's file

__all__ = [
    "Admission",
    "Balance",
    "Budget",
    "BudgetError",
    "Change",
    "KeyRefusedError",
    "Ledger",
    "Reservation",
    "Settled",
    "Used",
]


class Ledger:
    """One ledger; open it with `await Ledger.open(place)`, close it with `await ledger.close()`."""

    def __init__(self, place: Place, serving: Path | None) -> None:
        """Blocks while it connects: see `open`."""
        self.path = place
        self.run: runs.Run | None = None  # this process's claim to be alive, from `begin()` on
        self._serving = serving
        self._keys = KeyCache()
        first = connect(place)
        try:
            schema.prepare(first, place)
            self._durability = first.durability()
        except Exception as error:
            first.close()
            if isinstance(error, DutchdoorError):
                raise
            raise LedgerError(
                f"{named(place)} cannot be used: {error}", hint="move it, or use another --data"
            ) from error
        self._work = GroupWork(self._keys.drop)
        self._writer = Writer(first, self._connect, self._work)
        self._readers = Readers(lambda: connect(place))
        self._writer.start()

    @classmethod
    async def open(cls, place: Place) -> Self:
        """Open a ledger: a file, made where there is none, or `postgresql://…`.

        Raises LedgerError where it cannot be written, is none of ours, or is of a newer version.
        """
        serving = None if is_url(place) else Path(place).parent / SERVING
        return await asyncio.to_thread(cls, place, serving)

    @classmethod
    async def open_in(cls, data: Path, url: str | None = None) -> Self:
        """The ledger of a data folder: at a URL where one is given, else a file in it."""
        if url and not is_url(url):  # it would be taken for a file, with a password in its name
            raise LedgerError(
                "the ledger's URL is none of PostgreSQL", hint="write it as postgresql://USER@HOST/DATABASE"
            )
        return await asyncio.to_thread(cls, url or data / FILE, data / SERVING)

    async def close(self) -> None:
        """Finish what waits, close all connections, and give up this process's claim to be alive."""
        await self._writer.close()
        await asyncio.to_thread(self._readers.close)
        if self.run is not None:
            self.run.release()
            self.run = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def commits(self) -> int:
        """Transactions written so far: under load fewer than writes."""
        return self._writer.commits

    def durability(self) -> tuple[str, int | str]:
        """What a connection that writes read back: ("wal", 2), of which 2 is FULL; on PostgreSQL ("on",
        "on"), which are `synchronous_commit` and `fsync`.
        """
        return self._durability

    async def read(self, read: Callable[[Database], T]) -> T:
        """Read something off the event loop, on a connection of its own, from one state of the ledger."""
        return await self._readers.read(read)

    async def change(self, change: Callable[[Database], T]) -> T:
        """Change something in a transaction that no other one runs beside; durable on return."""
        return await self._writer.change(change)

    # -- keys and budgets

    async def create_key(
        self,
        name: str,
        *,
        budget: int | None = None,
        per: Per = "total",
        rpm: int | None = None,
        tpm: int | None = None,
        team: str | None = None,
        admin: bool = False,
    ) -> NewKey:
        """Make a key; the secret in the answer is nowhere else. `budget` in nano-dollars a period, `rpm` and
        `tpm` requests and tokens a minute.
        """
        limits = Change(budget=budget, per=per, rpm=rpm, tpm=tpm, team=team, admin=admin)
        return await self.change(lambda db: accounts.create_key(db, name, limits))

    async def revoke_key(self, key: str) -> Key:
        """Revoke a key by id, prefix or a name that only one has; holds at once in every running server."""
        return await self.change(lambda db: accounts.revoke_key(db, key))

    async def rotate_key(self, key: str) -> NewKey:
        """Give a key a new secret; the old one is dead at once, its usage and budget go on."""
        return await self.change(lambda db: accounts.rotate_key(db, key))

    async def set_key(self, key: str, change: Change) -> Key:
        """Change a key's limits or team; holds from the next request on."""
        return await self.change(lambda db: accounts.set_key(db, key, change))

    async def set_budget(self, account: str, budget: int, per: Per) -> Budget:
        """Give `team:NAME` or `family:NAME` a budget; what it has used in the present period counts."""
        return await self.change(lambda db: accounts.set_budget(db, account, budget, per))

    async def remove_budget(self, account: str) -> None:
        """Take the budget of a team or family away."""
        await self.change(lambda db: accounts.remove_budget(db, account))

    async def budgets(self) -> list[tuple[Budget, Balance]]:
        """The budgets that keys share, each with what is spent and held in its present period."""
        return await self.read(
            lambda db: [(each, accounts.balance(db, each.account, each.per)) for each in accounts.budgets(db)]
        )

    async def keys(self) -> list[Key]:
        """All keys, the oldest first."""
        return await self.read(accounts.all_keys)

    def cached_key(self, secret: str) -> Key | None:
        """The key of a secret as it was when it was last read, without any I/O; null when not in memory.

        It admits nothing: `reserve` compares it with the ledger.
        """
        return self._keys.get(hash_secret(secret))

    async def find_key(self, secret: str, *, fresh: bool = False) -> Key | None:
        """The key of a secret, or null where there is none or it was revoked.

        From memory where it is there, unless `fresh`: what reserves nothing must ask the ledger.
        """
        hash_ = hash_secret(secret)
        known = None if fresh else self._keys.get(hash_)
        if known is not None:
            return known
        found = await self.read(lambda db: accounts.key_by_hash(db, hash_))
        if found is None:
            self._keys.drop(hash_)
        else:
            self._keys.put(found)
        return found

    async def balance(self, key: Key) -> Balance:
        """What a key has spent and holds in its present period."""
        return await self.read(lambda db: accounts.balance(db, key.id, key.per))

    # -- requests

    async def begin(self) -> list[str]:
        """Start serving: claim a run, and close what dead runs left open.

        Returns the ids of those requests.
        """
        if self.run is None:
            run = runs.Run(self._serving)
            if is_url(self.path):
                await self.change(lambda db: runs.hold(db, run.id))
            self._work.run = run.id
            self.run = run
        return await self.close_dead_runs()

    async def close_dead_runs(self) -> list[str]:
        """Close what dead runs left open as interrupted, charged nothing; returns the ids of those requests.

        To be called now and then: on PostgreSQL it also finds out that this process's own session broke, and
        claims its run anew.
        """
        if is_url(self.path):
            await self.change(lambda db: None)
        dead = await self.read(self._dead_runs)
        closed: list[str] = []
        for run in dead:
            closed += await self.change(lambda db, run=run: interrupt(db, run))  # type: ignore[misc]
        if self._serving is not None:
            await asyncio.to_thread(runs.sweep, self._serving)
        return closed

    def reserve(self, admission: Admission) -> Awaitable[Reservation]:
        """Hold a request's worst case against its key's, its team's and its families' budgets; durable on
        return.

        Raises KeyRefusedError, BudgetError or LedgerError, and then holds nothing.
        """
        if self.run is None:
            raise LedgerError("requests are reserved only after begin()")
        if not 0 <= admission.nanodollars <= LARGEST_REQUEST:
            raise BudgetError(
                "the worst case of this request is more than any budget", hint="ask for fewer tokens"
            )
        return cast("Awaitable[Reservation]", self._writer.put(admission))

    def settle(self, request: str, used: Used) -> Awaitable[Settled | None]:
        """Book what a request came to and release its reservation; durable on return.

        More than was reserved is charged as reserved, with an alarm. Null where it was closed before: the
        first wins.
        """
        return cast("Awaitable[Settled | None]", self._writer.put((request, used)))

    async def bill(self, month: str) -> Bill:
        """The bill of a month (`2026-11`, UTC): the sum of what was booked, to the nano-dollar."""
        return await self.read(lambda db: read_bill(db, month))

    # -- in other threads

    def _connect(self) -> Database:
        """A new connection for the writer, which claims the run anew and undoes what was in doubt."""
        db = connect(self.path)
        try:
            if self.run is not None and is_url(self.path):
                runs.hold(db, self.run.id)
            self._work.reconnected(db)
        except BaseException:
            db.close()
            raise
        return db

    def _dead_runs(self, db: Database) -> list[str]:
        found = [row["run"] for row in db.rows("SELECT DISTINCT run FROM reservations")]
        others = [run for run in found if self.run is None or run != self.run.id]
        if is_url(self.path):
            return runs.sessionless(db, others)
        serving = cast("Path", self._serving)  # a file always has its folder
        return [run for run in others if runs.is_dead(serving, run)]
