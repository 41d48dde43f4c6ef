"""The tables of the ledger and their version, the same on SQLite and PostgreSQL.

Version 2. An older ledger is brought up to it in place, in one transaction; a newer one is refused, never
guessed at.
"""

from dutchdoor.core import LedgerError
from dutchdoor.ledger.database import Database, Place, is_url, named
from dutchdoor.ledger.migration import from_version_1

VERSION = 2
APPLICATION_ID = 0x44444C31  # "DDL1", so that `file` and we can tell a ledger from another database

# Rows that come with each request refer to keys and prices without a declared reference: the transaction that
# writes them has just read what they refer to, keys and prices are never deleted, and a look-up a row costs.
TABLES = """
CREATE TABLE keys (  -- `version` counts changes, `hash` is the SHA-256 of the secret in hex
  id TEXT PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, hash TEXT NOT NULL UNIQUE,
  created TEXT NOT NULL, revoked TEXT, budget INTEGER,
  per TEXT NOT NULL CHECK (per IN ('day', 'month', 'total')),
  rpm INTEGER, tpm INTEGER, team TEXT, admin INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;
CREATE TABLE budgets (  -- of teams and families: `team:NAME`, `family:NAME`
  account TEXT PRIMARY KEY, budget INTEGER NOT NULL,
  per TEXT NOT NULL CHECK (per IN ('day', 'month', 'total'))
) STRICT;
CREATE TABLE spend (  -- nano-dollars of an account in a period: spent is settled, held is reserved
  account TEXT NOT NULL, period TEXT NOT NULL,
  spent INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (account, period)
) STRICT, WITHOUT ROWID;
CREATE TABLE reservations (  -- open requests only; `holds` is JSON: [[account, period], …]
  id TEXT PRIMARY KEY, run TEXT NOT NULL, key TEXT NOT NULL, team TEXT, families TEXT NOT NULL,
  model TEXT NOT NULL, target TEXT NOT NULL, at TEXT NOT NULL, nanodollars INTEGER NOT NULL,
  holds TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE prices (  -- the price book: a row is never changed, a new price is a new row
  id SERIAL PRIMARY KEY, target TEXT NOT NULL, price TEXT NOT NULL, source TEXT NOT NULL,
  since TEXT NOT NULL
) STRICT;
CREATE INDEX prices_target ON prices (target, id);
CREATE TABLE usage (  -- in the order of admission, which is the order of the bill and of its events
  id TEXT NOT NULL, key TEXT NOT NULL, team TEXT, family TEXT, model TEXT NOT NULL, target TEXT NOT NULL,
  at TEXT NOT NULL, ended TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('finished', 'left', 'broken', 'failed', 'interrupted')),
  counted TEXT NOT NULL CHECK (counted IN ('reported', 'relayed', 'none')),
  input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
  written_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
  reserved INTEGER NOT NULL, price INTEGER, nanodollars INTEGER, alarm TEXT, PRIMARY KEY (at, id)
) STRICT, WITHOUT ROWID;
"""


def prepare(db: Database, place: Place) -> None:
    """Make the tables of a new ledger or bring an old one up to date; raises LedgerError for a database that
    is none of ours or too new.
    """
    db.begin(alone=True)
    try:
        if is_url(place):
            _prepare_postgres(db, place)
        else:
            _prepare_sqlite(db, place)
        db.commit()
    except BaseException:
        db.rollback()
        raise


def _prepare_sqlite(db: Database, place: Place) -> None:
    version = db.rows("PRAGMA user_version")[0]["user_version"]
    known = db.rows("PRAGMA application_id")[0]["application_id"] == APPLICATION_ID
    empty = db.rows("SELECT count(*) AS tables FROM sqlite_schema")[0]["tables"] == 0
    if empty and version == 0:
        _create(db, TABLES.replace("SERIAL", "INTEGER"))
        db.run(f"PRAGMA application_id = {APPLICATION_ID}")
    elif not known:
        raise _none_of_ours(place)
    elif version == 1:
        from_version_1(db, lambda: _create(db, TABLES.replace("SERIAL", "INTEGER")))
    elif version != VERSION:
        raise _too_new(place, version)
    db.run(f"PRAGMA user_version = {VERSION}")


def _prepare_postgres(db: Database, place: Place) -> None:
    """Where the tables lie is what the URL or the role says (`search_path`)."""
    if db.rows("SELECT to_regclass('dutchdoor_ledger') AS found")[0]["found"] is None:
        if db.rows("SELECT to_regclass('keys') AS found")[0]["found"] is not None:
            raise _none_of_ours(place)
        _create(db, _for_postgres(TABLES))
        db.run("CREATE TABLE dutchdoor_ledger (version BIGINT NOT NULL)")
        db.run("INSERT INTO dutchdoor_ledger VALUES (?)", (VERSION,))
        return
    version = db.rows("SELECT version FROM dutchdoor_ledger")[0]["version"]
    if version != VERSION:
        raise _too_new(place, version)


def _for_postgres(tables: str) -> str:
    """Text compares by its bytes whatever the locale of the server, so that times sort as they do in SQLite."""
    return (
        tables.replace(") STRICT, WITHOUT ROWID", ")")
        .replace(") STRICT", ")")
        .replace("INTEGER", "BIGINT")
        .replace("SERIAL", "BIGINT GENERATED ALWAYS AS IDENTITY")
        .replace(" TEXT", ' TEXT COLLATE "C"')
    )


def _create(db: Database, tables: str) -> None:
    for statement in tables.strip().split(";\n"):
        db.run(statement)


def _none_of_ours(place: Place) -> LedgerError:
    return LedgerError(
        f"{named(place)} is a database, but no ledger of dutchdoor", hint="move it, or use another --data"
    )


def _too_new(place: Place, version: int) -> LedgerError:
    return LedgerError(
        f"{named(place)} is a ledger of version {version}, this is version {VERSION}",
        hint="use a newer dutchdoor",
    )
