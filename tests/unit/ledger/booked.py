"""Books with rows of a test's own: the real tables, without the way on which requests come into them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.ledger.database import Place, connect
from dutchdoor.ledger.schema import prepare

TABLES = ("usage", "reservations", "spend", "budgets", "keys")
REQUEST = {
    "key": "key_a",
    "team": None,
    "family": None,
    "model": "m",
    "target": "t",
    "at": "2026-11-24T08:00:00.000000Z",
    "ended": "2026-11-24T08:00:01.000000Z",
    "state": "finished",
    "counted": "reported",
    "input_tokens": 0,
    "cached_tokens": 0,
    "written_tokens": 0,
    "output_tokens": 0,
    "reserved": 10**9,
    "price": None,
    "nanodollars": 0,
    "alarm": None,
}
OPEN = {
    "run": "run_a",
    "key": "key_a",
    "families": "[]",
    "model": "m",
    "target": "t",
    "nanodollars": 1,
    "holds": "[]",
}
KEY = {"prefix": "dd-", "created": "2026-11-01T00:00:00.000000Z", "per": "total", "admin": 0, "version": 1}


class Books:
    """A ledger's database as its readers see it, with a way to book; `queries` counts what was asked."""

    def __init__(self, place: Place) -> None:
        self.db = connect(place)
        prepare(self.db, place)
        self.queries = 0

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[Mapping[str, Any]]:
        self.queries += 1
        return self.db.rows(sql, params)

    def clear(self) -> "Books":
        """The books, empty again."""
        for table in TABLES:
            self.db.run(f"DELETE FROM {table}")
        return self

    def book(self, id: str, **what: object) -> None:
        self._insert("usage", {"id": id, **REQUEST, **what})

    def book_all(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Many at once, each flushed with the others; their ids are r0000, r0001, …"""
        self.db.begin()
        for number, row in enumerate(rows):
            self.book(f"r{number:04}", **row)
        self.db.commit()

    def open(self, id: str, at: str) -> None:
        self._insert("reservations", {"id": id, "at": at, **OPEN})

    def key(self, id: str, **what: object) -> None:
        self._insert("keys", {"id": id, "name": id, "hash": id, **KEY, **what})

    def budget(self, account: str, budget: int, per: str) -> None:
        self._insert("budgets", {"account": account, "budget": budget, "per": per})

    def spend(self, account: str, period: str, spent: int, held: int) -> None:
        self._insert("spend", {"account": account, "period": period, "spent": spent, "held": held})

    def _insert(self, table: str, row: Mapping[str, object]) -> None:
        marks = ", ".join("?" * len(row))
        self.db.run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [*row.values()])


@pytest.fixture(name="books", params=["sqlite", "postgresql"])
def on_both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Books]:
    """Empty books, on both databases."""
    place: Place = tmp_path / "ledger.sqlite3"
    if request.param == "postgresql":
        place = request.getfixturevalue("postgres").url()
    opened = Books(place)
    yield opened
    opened.db.close()
