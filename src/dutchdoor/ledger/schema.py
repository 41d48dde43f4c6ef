"""The tables of the ledger, their version, and how a connection is set up.

Version 1. A ledger of a newer version is refused, never guessed at.
"""

import sqlite3
from pathlib import Path

from dutchdoor.core import LedgerError

VERSION = 1
APPLICATION_ID = 0x44444C31  # "DDL1", so that `file` and we can tell a ledger from another database
BUSY_MS = 10_000  # how long a connection waits for another process's transaction

TABLES = """
CREATE TABLE keys (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
  created TEXT NOT NULL, revoked TEXT, budget INTEGER,
  per TEXT NOT NULL CHECK (per IN ('day', 'month', 'total'))
) STRICT;
CREATE TABLE spend (  -- nano-dollars of a key in a period: spent is settled, held is reserved
  key TEXT NOT NULL REFERENCES keys (id), period TEXT NOT NULL,
  spent INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (key, period)
) STRICT, WITHOUT ROWID;
CREATE TABLE reservations (  -- open requests only
  id TEXT PRIMARY KEY, run TEXT NOT NULL, key TEXT NOT NULL REFERENCES keys (id), period TEXT NOT NULL,
  model TEXT NOT NULL, target TEXT NOT NULL, at TEXT NOT NULL, nanodollars INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE prices (  -- the price book: a row is never changed, a new price is a new row
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
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection in which a commit is on the disk when it returns (WAL, `synchronous=FULL`)."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new ledger; raises LedgerError for a database that is none of ours or too new."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        known = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if empty and version == 0:
            for statement in TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        elif not known:
            raise LedgerError(
                f"{path} is a database, but no ledger of dutchdoor", hint="move it, or use another --data"
            )
        elif version != VERSION:
            raise LedgerError(
                f"{path} is a ledger of version {version}, this is version {VERSION}",
                hint="use a newer dutchdoor",
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
