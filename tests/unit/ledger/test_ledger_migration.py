"""A ledger of version 1 is people's money: it becomes one of version 2 with every row as it was."""

import hashlib
import sqlite3

import pytest

from dutchdoor.core import LedgerError
from dutchdoor.ledger import migration
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.store import Ledger
from tests.unit.ledger.ledgers import accounts, admission, used

SECRET = "dd-" + "x" * 43
VERSION_1 = """
CREATE TABLE keys (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
  created TEXT NOT NULL, revoked TEXT, budget INTEGER,
  per TEXT NOT NULL CHECK (per IN ('day', 'month', 'total'))
) STRICT;
CREATE TABLE spend (
  key TEXT NOT NULL REFERENCES keys (id), period TEXT NOT NULL,
  spent INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (key, period)
) STRICT, WITHOUT ROWID;
CREATE TABLE reservations (
  id TEXT PRIMARY KEY, run TEXT NOT NULL, key TEXT NOT NULL REFERENCES keys (id), period TEXT NOT NULL,
  model TEXT NOT NULL, target TEXT NOT NULL, at TEXT NOT NULL, nanodollars INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE prices (
  id INTEGER PRIMARY KEY, target TEXT NOT NULL, input INTEGER NOT NULL, output INTEGER NOT NULL,
  since TEXT NOT NULL
) STRICT;
CREATE TABLE usage (
  id TEXT PRIMARY KEY, key TEXT NOT NULL REFERENCES keys (id), model TEXT NOT NULL, target TEXT NOT NULL,
  at TEXT NOT NULL, ended TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('finished', 'left', 'broken', 'failed', 'interrupted')),
  counted TEXT NOT NULL CHECK (counted IN ('reported', 'relayed', 'none')),
  input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
  reserved INTEGER NOT NULL, price INTEGER REFERENCES prices (id), nanodollars INTEGER, alarm TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_at ON usage (at);
PRAGMA application_id = 0x44444C31;
PRAGMA user_version = 1;
"""
AT = "2026-10-05T08:00:00.000000Z"


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA foreign_keys = ON")
    db.executescript(VERSION_1)
    hash_ = hashlib.sha256(SECRET.encode()).digest()
    db.execute(
        "INSERT INTO keys VALUES ('key_a', 'ann', ?, ?, ?, NULL, 1000, 'month')", (SECRET[:9], hash_, AT)
    )
    db.execute(
        "INSERT INTO keys VALUES ('key_b', 'bob', 'dd-b', ?, ?, ?, NULL, 'total')", (b"b" * 32, AT, AT)
    )
    db.execute("INSERT INTO spend VALUES ('key_a', '2026-10', 107, 60)")
    db.execute("INSERT INTO prices VALUES (7, 't', 1000, 3000, ?)", (AT,))
    for id_, state, price, amount in (
        ("req_1", "finished", 7, 107),
        ("req_2", "interrupted", None, 0),
        ("req_3", "left", None, None),
    ):
        db.execute(
            "INSERT INTO usage VALUES (?, 'key_a', 'm', 't', ?, ?, ?, 'reported', 8, 33, 200, ?, ?, NULL)",
            (id_, AT, AT, state, price, amount),
        )
    db.execute(
        "INSERT INTO reservations VALUES ('req_4', 'run_dead', 'key_a', '2026-10', 'm', 't', ?, 60)", (AT,)
    )
    db.close()
    return path


async def test_every_row_of_version_1_is_kept(old) -> None:
    async with await Ledger.open(old) as ledger:
        bill = await ledger.bill("2026-10")
        assert bill.total_nanodollars == 107 and [line.nanodollars for line in bill.lines] == [107, None]
        assert [each.id for each in bill.interrupted] == ["req_2"]
        key = await ledger.find_key(SECRET)
        assert (key.id, key.budget, key.per, key.team, key.admin, key.version) == (
            *("key_a", 1000, "month"),
            None,
            False,
            1,
        )
        assert [each.revoked for each in await ledger.keys()] == [None, AT]
        assert await accounts(ledger) == {("key_a", "2026-10"): (107, 60)}
        (price,) = await ledger.read(lambda db: db.rows("SELECT * FROM prices"))
        assert price == {"id": 7, "target": "t", "since": AT, "source": "stated"} | {"price": price["price"]}
        assert await ledger.begin() == ["req_4"]  # what was open is closed, and what it held released
        assert await accounts(ledger) == {("key_a", "2026-10"): (107, 0)}
        await ledger.reserve(admission(key, 500, "req_5"))
        same = used(input_tokens=1, price=Price(input=1000, output=3000))
        assert (await ledger.settle("req_5", same)).nanodollars == 1
        (row,) = await ledger.read(lambda db: db.rows("SELECT price FROM usage WHERE id = 'req_5'"))
        assert row["price"] == 7  # the same price is the same row of the book
    async with await Ledger.open(old) as again:
        assert (await again.bill("2026-10")).total_nanodollars == 107


async def test_a_migration_that_fails_leaves_version_1(old, monkeypatch) -> None:
    monkeypatch.setattr(migration, "COPIES", (*migration.COPIES[:-1], "INSERT INTO usage SELECT nothing"))
    with pytest.raises(LedgerError, match="cannot be used"):
        await Ledger.open(old)
    db = sqlite3.connect(old)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert db.execute("SELECT count(*), sum(nanodollars) FROM usage").fetchone() == (3, 107)
    assert db.execute("SELECT typeof(hash) FROM keys").fetchone() == ("blob",)
    db.close()


async def test_a_newer_ledger_is_refused(place) -> None:
    async with await Ledger.open(place) as ledger:
        newer = "PRAGMA user_version = 99" if place == ledger.path and not isinstance(place, str) else None
        await ledger.change(lambda db: db.run(newer or "UPDATE dutchdoor_ledger SET version = 99"))
    with pytest.raises(LedgerError, match="version 99"):
        await Ledger.open(place)
