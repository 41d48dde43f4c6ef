"""Settling: what requests came to is booked, and what was held for them is released.

The reservation is the only licence to book: whoever deletes it books, so a request is booked once whoever
else tries, on any host.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from dutchdoor.core import LedgerError
from dutchdoor.ledger.database import Database, Type
from dutchdoor.ledger.keys import now, stamp
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.requests import Settled, Used
from dutchdoor.ledger.spends import Spend, Spends

Ending = tuple[str, Used | None]  # a request's id and what it came to; null: interrupted
ID: Final[dict[str, Type]] = {"id": "text"}
OPEN = "id, key, team, families, model, target, at, nanodollars, holds"
FIND = "FROM reservations WHERE id IN (SELECT id FROM :rows: AS given) ORDER BY id"
DELETE = "DELETE FROM reservations WHERE id IN (SELECT id FROM :rows: AS given)"
USAGE: Final[dict[str, Type]] = {
    "id": "text",
    "key": "text",
    "team": "text",
    "family": "text",
    "model": "text",
    "target": "text",
    "at": "text",
    "ended": "text",
    "state": "text",
    "counted": "text",
    "input_tokens": "bigint",
    "cached_tokens": "bigint",
    "written_tokens": "bigint",
    "output_tokens": "bigint",
    "reserved": "bigint",
    "price": "bigint",
    "nanodollars": "bigint",
    "alarm": "text",
}
_names = msgspec.json.Decoder(tuple[str, ...])
_holds = msgspec.json.Decoder(tuple[tuple[str, str], ...])


class PriceBook:
    """Numbers of the price book's rows: the last of each target is remembered, since a row never changes."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Price, int]] = {}

    def number(self, db: Database, target: str, price: Price, stamped: str) -> int:
        """The row that is in force for a target; a changed price is a new row."""
        last = self._last.get(target)
        if last is not None and last[0] == price:
            return last[1]
        text = msgspec.json.encode(price).decode()
        rows = db.rows("SELECT id, price FROM prices WHERE target = ? ORDER BY id DESC LIMIT 1", (target,))
        if not rows or rows[0]["price"] != text:
            rows = db.rows(
                "INSERT INTO prices (target, price, source, since) VALUES (?, ?, ?, ?) RETURNING id",
                (target, text, getattr(price, "source", "stated"), stamped),
            )
        self._last[target] = (price, int(rows[0]["id"]))
        return self._last[target][1]

    def forget(self) -> None:
        """After a transaction that was undone: its rows may not be there."""
        self._last.clear()


def settle(
    db: Database, endings: Sequence[Ending], spends: Spends, book: PriceBook, stamped: str
) -> list[Settled | None]:
    """Book requests and gather what it does to accounts; null for each that is not open, or no longer."""
    if not endings:
        return []
    found = db.select_for(OPEN, FIND + db.locking, ID, [(ending[0],) for ending in endings])
    still_open = {row[0]: row for row in found}
    released: dict[str, list[tuple[str | None, Spend]]] = {}
    booked: list[tuple[object, ...]] = []
    settled: list[Settled | None] = []
    for request, used in endings:
        row = still_open.pop(request, None)
        if row is None:
            settled.append(None)
            continue
        usage, outcome = _usage(db, row, used, book, stamped)
        family, reserved, charged = usage[3], row[7], outcome.nanodollars or 0
        holds = released.get(row[8])
        if holds is None:
            holds = released[row[8]] = [
                (_family(account), spends.of(account, period)) for account, period in _holds.decode(row[8])
            ]
        for held_for, spend in holds:
            spend.released += reserved
            if held_for is None or held_for == family:  # a family is charged for what it served itself
                spend.charged += charged
        booked.append(usage)
        settled.append(outcome)
    if booked:
        db.insert("usage", USAGE, booked)
        if db.run_for(DELETE, ID, [(usage[0],) for usage in booked]) != len(booked):
            raise LedgerError(
                "a reservation was closed while it was locked", hint="nothing of it was written"
            )
    return settled


def interrupt(db: Database, run: str) -> list[str]:
    """Close what a dead run left open, charged nothing; returns the ids of those requests."""
    requests = [row["id"] for row in db.rows("SELECT id FROM reservations WHERE run = ? ORDER BY id", (run,))]
    spends = Spends()
    endings: list[Ending] = [(request, None) for request in requests]
    settled = settle(db, endings, spends, PriceBook(), stamp(now()))
    if db.locking:
        spends.read(db)
    spends.write(db)
    return [request for request, each in zip(requests, settled, strict=True) if each is not None]


def withdraw(db: Database, requests: Sequence[str]) -> None:
    """Release reservations as if they had never been: for requests whose admission was never acknowledged,
    so that nothing was done for them.
    """
    spends = Spends()
    found = db.select_for(OPEN, FIND + db.locking, ID, [(request,) for request in requests])
    for row in found:
        for account, period in _holds.decode(row[8]):
            spends.of(account, period).released += row[7]
    db.run_for(DELETE, ID, [(row[0],) for row in found])
    if db.locking:
        spends.read(db)
    spends.write(db)


def _usage(
    db: Database, row: Sequence[Any], used: Used | None, book: PriceBook, stamped: str
) -> tuple[tuple[object, ...], Settled]:
    """The row of `usage` for an open reservation, and what was booked."""
    request, key, team, families, model, target, at, reserved, _ = row
    if used is None:
        used = Used(target=target, state="interrupted", counted="none")
    number, alarm = None, None
    amount: int | None = 0  # interrupted: charged nothing, whatever its price was
    if used.state != "interrupted":
        amount = None if used.price is None else _cost(used.price, used)
    if amount is not None and amount > reserved:
        alarm = f"usage came to {amount} nano-dollars, {reserved} were reserved and charged"
        amount = reserved
    family = None if used.family is UNSET else used.family
    if families != "[]":
        admitted = _names.decode(families)
        if used.family is UNSET:
            family = admitted[0]
        elif family is not None and family not in admitted:
            alarm = f"served by family {family}, for which nothing was held" + (f"; {alarm}" if alarm else "")
    if used.price is not None:
        number = book.number(db, used.target, used.price, stamped)
    whose = (request, key, team, family, model, used.target, at, stamped, used.state, used.counted)
    tokens = (used.input_tokens, used.cached_tokens, used.written_tokens, used.output_tokens)
    return (*whose, *tokens, reserved, number, amount, alarm), Settled(nanodollars=amount, alarm=alarm)


def _cost(price: Price, used: Used) -> int:
    return price.cost(used.input_tokens, used.output_tokens, used.cached_tokens, used.written_tokens)


def _family(account: str) -> str | None:
    return account.removeprefix("family:") if account.startswith("family:") else None
