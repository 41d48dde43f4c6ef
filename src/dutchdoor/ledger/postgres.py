"""The ledger on PostgreSQL, for several hosts: psycopg 3, one session a connection.

A table of values travels as one JSON text, so that a statement has one value whatever the size of its group,
and stays prepared. Needs sessions of its own: behind a pooler that shares them by transaction, locks that
belong to a session are lost.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from dutchdoor.core import LedgerError, MissingExtraError
from dutchdoor.ledger.database import Meaning, Row, Type, named

try:
    import psycopg
    from psycopg.abc import Buffer
    from psycopg.adapt import Loader
    from psycopg.rows import dict_row
    from psycopg.types.numeric import Int8Dumper
except ImportError as missing:
    raise MissingExtraError("a ledger on PostgreSQL", extra="postgres") from missing

CONNECT_S = 10
LOCK_S = 10  # how long a transaction waits for a row that another one holds
GROUPS = (0x44444C, 1)  # "DDL": the advisory lock that groups share and a change of budgets takes alone
# A host that lost its power says no goodbye: its session, and with it its claim to be alive, ends when these
# probes are not answered.
SESSION = (
    "SET synchronous_commit = on; SET TIME ZONE 'UTC';"
    f" SET lock_timeout = '{LOCK_S}s'; SET client_min_messages = error;"
    " SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
)


class Postgres:
    """A connection to a database; see `dutchdoor.ledger.database.Database`."""

    locking = " FOR UPDATE"

    def __init__(self, url: str) -> None:
        """Connect; raises LedgerError, also where the server acknowledges what it has not flushed."""
        try:
            self._connection = psycopg.connect(
                url, autocommit=True, connect_timeout=CONNECT_S, application_name="dutchdoor"
            )
        except psycopg.Error as error:
            raise LedgerError(
                f"{named(url)} cannot be used: {str(error).strip()}", hint="look at the server and the URL"
            ) from error
        self._connection.adapters.register_dumper(int, Int8Dumper)  # one type, so one prepared statement
        self._connection.adapters.register_loader("numeric", Whole)
        try:
            self._connection.execute(SESSION, prepare=False)
            if self.durability() != ("on", "on"):
                raise LedgerError(
                    f"{named(url)} acknowledges what it has not flushed: fsync is off",
                    hint="set fsync = on, or what was booked can be lost with the power",
                )
        except psycopg.Error as error:
            self._connection.close()
            raise LedgerError(f"{named(url)} cannot be used: {error}") from error
        except LedgerError:
            self._connection.close()
            raise

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[Mapping[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(_placed(sql), params)
            return [*cursor.fetchall()] if cursor.description else []

    def run(self, sql: str, params: Sequence[object] = ()) -> int:
        return self._connection.execute(_placed(sql), params).rowcount

    def select_for(
        self, columns: str, rest: str, table: Mapping[str, Type], values: Sequence[Row]
    ) -> list[list[Any]]:
        if not values:
            return []
        sql = _with_rows(f"SELECT {columns} {rest}", tuple(table.items()))
        return [[*row] for row in self._connection.execute(sql, (_json(values),)).fetchall()]

    def run_for(self, sql: str, table: Mapping[str, Type], values: Sequence[Row]) -> int:
        if not values:
            return 0
        return self._connection.execute(_with_rows(sql, tuple(table.items())), (_json(values),)).rowcount

    def insert(self, table: str, columns: Mapping[str, Type], values: Sequence[Row]) -> None:
        named_ = ", ".join(columns)
        self.run_for(f"INSERT INTO {table} ({named_}) SELECT {named_} FROM :rows: AS given", columns, values)  # noqa: S608 - no data

    def begin(self, *, alone: bool = False) -> None:
        lock = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        self._simple(f"BEGIN; SELECT {lock}({GROUPS[0]}, {GROUPS[1]})")

    def snapshot(self) -> None:
        self._simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def commit(self) -> None:
        self._simple("COMMIT")

    def rollback(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.rollback()

    def durability(self) -> tuple[str, int | str]:
        """`synchronous_commit` and `fsync`: ("on", "on")."""
        row = self._connection.execute(
            "SELECT current_setting('synchronous_commit'), current_setting('fsync')"
        ).fetchone()
        assert row is not None  # a SELECT without FROM has one row
        return str(row[0]), str(row[1])

    def meaning(self, error: BaseException) -> Meaning:
        if self._connection.closed or self._connection.broken:
            return "lost"
        if isinstance(error, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure):
            return "again"
        if isinstance(error, psycopg.IntegrityError | psycopg.DataError):
            return "one"
        return "all" if isinstance(error, psycopg.Error) else "one"

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.close()

    def _simple(self, sql: str) -> None:
        """Several statements in one message, which cannot be prepared."""
        self._connection.execute(sql, prepare=False)


class Whole(Loader):
    """What PostgreSQL sums integers up to is a `numeric`; here it is an integer again."""

    def load(self, data: Buffer) -> int | Decimal:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else Decimal(text)


def _json(values: Sequence[Row]) -> str:
    return msgspec.json.encode(values).decode()


@functools.lru_cache(maxsize=256)
def _placed(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@functools.lru_cache(maxsize=256)
def _with_rows(sql: str, table: tuple[tuple[str, Type], ...]) -> str:
    cells = ", ".join(
        f"(cells ->> {number}){'' if kind == 'text' else '::bigint'} AS {name}"
        for number, (name, kind) in enumerate(table)
    )
    rows = f"(SELECT {cells} FROM jsonb_array_elements(%s::jsonb) AS cells)"  # noqa: S608 - no data
    return sql.replace("%", "%%").replace(":rows:", rows)
