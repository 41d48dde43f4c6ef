"""The ledger: reserve before a request goes upstream, settle before its response is closed, bill
afterwards.

Budgets are held by a conditional update in the database, never by a cache: concurrent clients cannot
overspend one by anything. Days and months are UTC, and a request belongs to the period in which it was
admitted.
"""

import asyncio
import datetime
import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import msgspec

from dutchdoor.core import LedgerError
from dutchdoor.ledger import runs, schema
from dutchdoor.ledger.bill import Bill, read_bill
from dutchdoor.ledger.keys import SHOWN, Key, NewKey, Per, hash_secret, new_secret, now, period, stamp
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.writer import Writer

State = Literal["finished", "left", "broken", "failed", "interrupted"]
Counted = Literal["reported", "relayed", "none"]
LARGEST_REQUEST = 1 << 53  # nano-dollars (9 million USD): a thousand of them still fit into a column


class KeyRefusedError(LedgerError):
    """The key does not exist, or was revoked."""


class BudgetError(LedgerError):
    """The key's budget does not hold the worst case of the request."""


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """An admitted request: its worst case is held against the key's budget. `nanodollars` is 0 where
    unpriced.
    """

    id: str
    key: str
    nanodollars: int


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to. `price` null: unknown, so what it cost is unknown too."""

    target: str
    state: State
    counted: Counted
    input_tokens: int = 0
    output_tokens: int = 0
    price: Price | None = None


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What was booked. `alarm` says why it is not what the tokens come to."""

    nanodollars: int | None
    alarm: str | None = None


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-dollars of a key in its present period."""

    period: str
    spent: int
    held: int


class Ledger:
    """One file; open it with `await Ledger.open(path)`, close it with `await ledger.close()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs = path.parent / "serving"
        self._run: runs.Run | None = None
        self._reader = schema.connect(path)
        schema.prepare(self._reader, path)
        self._writer = Writer(lambda: schema.connect(path))
        self._writer.start()

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open a ledger, making it where there is none; raises LedgerError where it cannot be written or is
        none.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            return cls(path)
        except OSError as error:
            raise LedgerError(
                f"{path} cannot be written: {error.strerror}", hint="use another --data"
            ) from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"{path} cannot be used: {error}", hint="move it, or use another --data"
            ) from error

    @classmethod
    async def open_in(cls, data: Path) -> Self:
        """The ledger of a data folder."""
        return await cls.open(data / "ledger.sqlite3")

    async def close(self) -> None:
        await self._writer.close()
        self._reader.close()
        if self._run is not None:
            self._run.release()
            self._run = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def commits(self) -> int:
        """Transactions written so far: under load fewer than writes."""
        return self._writer.commits

    def durability(self) -> tuple[str, int]:
        """The journal mode and `synchronous` as a connection of ours reads them back: ("wal", 2)."""
        mode = self._reader.execute("PRAGMA journal_mode").fetchone()[0]
        return str(mode), int(self._reader.execute("PRAGMA synchronous").fetchone()[0])

    # -- keys

    async def create_key(self, name: str, *, budget: int | None = None, per: Per = "total") -> NewKey:
        """Make a key; the secret in the answer is nowhere else. `budget` in nano-dollars a period."""
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise LedgerError(f"{name!r} is no name for a key", hint="use 1 to 200 printable characters")
        if budget is not None and not 0 <= budget <= LARGEST_REQUEST:
            raise LedgerError(f"a budget of {budget} nano-dollars cannot be held")
        secret = new_secret()
        key = NewKey(
            id="key_" + secrets.token_hex(6),
            key=secret,
            name=name,
            prefix=secret[:SHOWN],
            created=stamp(now()),
            budget=budget,
            per=per,
        )
        row = (key.id, name, key.prefix, hash_secret(secret), key.created, budget, per)
        await self._writer.write(
            lambda db: db.execute(
                "INSERT INTO keys (id, name, prefix, hash, created, budget, per) VALUES (?,?,?,?,?,?,?)",
                row,
            )
        )
        return key

    async def revoke_key(self, key: str) -> Key:
        """Revoke a key by id, prefix or a name that only one has; holds at once in every running server."""

        def write(db: sqlite3.Connection) -> Key:
            rows = db.execute(
                "SELECT * FROM keys WHERE id = ?1 OR prefix = ?1 OR name = ?1", (key,)
            ).fetchall()
            living = [row for row in rows if row["revoked"] is None] or rows
            if not living:
                raise LedgerError(f"there is no key {key!r}", hint="dutchdoor keys list")
            if len(living) > 1:
                raise LedgerError(f"{len(living)} keys are called {key!r}", hint="name the key by its id")
            when = living[0]["revoked"] or stamp(now())
            db.execute("UPDATE keys SET revoked = ? WHERE id = ?", (when, living[0]["id"]))
            return _key(db.execute("SELECT * FROM keys WHERE id = ?", (living[0]["id"],)).fetchone())

        return await self._writer.write(write)

    async def keys(self) -> list[Key]:
        """All keys, the oldest first."""
        return [_key(row) for row in self._reader.execute("SELECT * FROM keys ORDER BY created, id")]

    async def find_key(self, secret: str) -> Key | None:
        """The key of a secret, or null where there is none or it was revoked. Read anew each time (some 10
        µs).
        """
        rows = self._reader.execute(
            "SELECT * FROM keys WHERE hash = ? AND revoked IS NULL", (hash_secret(secret),)
        ).fetchall()
        return _key(rows[0]) if rows else None

    async def balance(self, key: Key) -> Balance:
        """What a key has spent and holds in its present period."""
        named = period(key.per, now())
        rows = self._reader.execute(
            "SELECT spent, held FROM spend WHERE key = ? AND period = ?", (key.id, named)
        ).fetchall()
        spent, held = (rows[0]["spent"], rows[0]["held"]) if rows else (0, 0)
        return Balance(period=named, spent=spent, held=held)

    # -- requests

    async def begin(self) -> list[str]:
        """Start serving: claim a run, and close what dead runs left open as interrupted, charged nothing.

        Returns the ids of those requests.
        """
        self._run = self._run or runs.Run(self._runs)
        rows = self._reader.execute("SELECT DISTINCT run FROM reservations").fetchall()
        dead = [
            row["run"] for row in rows if row["run"] != self._run.id and runs.is_dead(self._runs, row["run"])
        ]
        closed: list[str] = []
        for run in dead:
            closed += await self._writer.write(_interrupt(run))
            runs.forget(self._runs, run)
        return closed

    async def reserve(
        self,
        request: str,
        key: str,
        *,
        model: str,
        target: str,
        nanodollars: int,
        at: datetime.datetime | None = None,
    ) -> Reservation:
        """Hold a request's worst case against its key's budget; durable on return.

        Raises KeyRefusedError or BudgetError, and then holds nothing.
        """
        if self._run is None:
            raise LedgerError("requests are reserved only after begin()")
        if not 0 <= nanodollars <= LARGEST_REQUEST:
            raise BudgetError(
                "the worst case of this request is more than any budget", hint="ask for fewer tokens"
            )
        run, moment = self._run.id, at or now()

        def write(db: sqlite3.Connection) -> Reservation:
            row = db.execute("SELECT per FROM keys WHERE id = ? AND revoked IS NULL", (key,)).fetchone()
            if row is None:
                raise KeyRefusedError("the key was revoked")
            named = period(row["per"], moment)
            db.execute("INSERT OR IGNORE INTO spend (key, period) VALUES (?, ?)", (key, named))
            held = db.execute(
                "UPDATE spend SET held = held + ?1 WHERE key = ?2 AND period = ?3 AND EXISTS ("
                "SELECT 1 FROM keys WHERE id = ?2 AND (budget IS NULL OR spent + held + ?1 <= budget))",
                (nanodollars, key, named),
            )
            if held.rowcount != 1:
                raise BudgetError("the budget of this key does not hold the worst case of this request")
            db.execute(
                "INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (request, run, key, named, model, target, stamp(moment), nanodollars),
            )
            return Reservation(id=request, key=key, nanodollars=nanodollars)

        return await self._writer.write(write)

    async def settle(self, request: str, used: Used) -> Settled | None:
        """Book what a request came to and release its reservation; durable on return.

        More than was reserved is charged as reserved, with an alarm. Null where it was closed before: the
        first wins.
        """

        def write(db: sqlite3.Connection) -> Settled | None:
            row = db.execute("DELETE FROM reservations WHERE id = ? RETURNING *", (request,)).fetchone()
            return None if row is None else _book(db, row, used)

        return await self._writer.write(write)

    async def bill(self, month: str) -> Bill:
        """The bill of a month (`2026-11`, UTC): the sum of what was booked, to the nano-dollar."""

        def read() -> Bill:
            connection = schema.connect(self.path)
            try:
                return read_bill(connection, month)
            finally:
                connection.close()

        return await asyncio.to_thread(read)


def _key(row: sqlite3.Row) -> Key:
    return Key(**{name: row[name] for name in Key.__struct_fields__})


def _book(db: sqlite3.Connection, reservation: sqlite3.Row, used: Used) -> Settled:
    reserved: int = reservation["nanodollars"]
    if used.state == "interrupted":  # charged nothing, whatever its price was
        amount: int | None = 0
    else:
        amount = None if used.price is None else used.price.cost(used.input_tokens, used.output_tokens)
    alarm = None
    if amount is not None and amount > reserved:
        alarm = f"usage came to {amount} nano-dollars, {reserved} were reserved and charged"
        amount = reserved
    db.execute(
        "UPDATE spend SET held = held - ?, spent = spent + ? WHERE key = ? AND period = ?",
        (reserved, amount or 0, reservation["key"], reservation["period"]),
    )
    price = None if used.price is None else _price_row(db, used.target, used.price)
    ended = stamp(now())
    db.execute(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(
                reservation["id"],
                reservation["key"],
                reservation["model"],
                used.target,
                reservation["at"],
                ended,
            ),
            *(
                used.state,
                used.counted,
                used.input_tokens,
                used.output_tokens,
                reserved,
                price,
                amount,
                alarm,
            ),
        ),
    )
    return Settled(nanodollars=amount, alarm=alarm)


def _price_row(db: sqlite3.Connection, target: str, price: Price) -> int:
    """The price book's row that is in force for a target; a changed price is a new row."""
    row = db.execute("SELECT * FROM prices WHERE target = ? ORDER BY id DESC LIMIT 1", (target,)).fetchone()
    if row is not None and (row["input"], row["output"]) == (price.input, price.output):
        return int(row["id"])
    added = db.execute(
        "INSERT INTO prices (target, input, output, since) VALUES (?, ?, ?, ?) RETURNING id",
        (target, price.input, price.output, stamp(now())),
    ).fetchone()
    return int(added["id"])


def _interrupt(run: str) -> Callable[[sqlite3.Connection], list[str]]:
    def write(db: sqlite3.Connection) -> list[str]:
        rows = db.execute("DELETE FROM reservations WHERE run = ? RETURNING *", (run,)).fetchall()
        for row in rows:
            _book(
                db,
                row,
                Used(target=row["target"], state="interrupted", counted="none"),
            )
        return [row["id"] for row in rows]

    return write
