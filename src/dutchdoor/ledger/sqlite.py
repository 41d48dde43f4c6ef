"""The ledger in a file: SQLite in WAL mode, flushed at each commit.

Each step of a statement gives up the interpreter's lock and has to win it back from a busy event loop, so a
group is written in few statements of many rows, and read as one row of JSON. The number of rows of a
statement is a power of two, so that the same few statements stay prepared.
"""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import LedgerError
from dutchdoor.ledger.database import Meaning, Row, Type

BUSY_S = 10.0  # how long a transaction waits for another process's
PREPARED = 256  # statements kept: some ten of the ledger's, each for up to nine numbers of rows
LARGEST_CHUNK = 256  # rows of one statement; what more would save is lost in preparing it


class Sqlite:
    """A connection to the file; see `dutchdoor.ledger.database.Database`."""

    locking = ""  # a transaction that writes has the file to itself

    def __init__(self, path: Path) -> None:
        """Open a ledger's file, making an empty one, readable by its owner only, where there is none."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Only a new file may be opened here: closing any descriptor of a file drops every lock that this
            # process has on it, SQLite's own too, and the next one to leave would take the log away with it.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise LedgerError(
                f"{path} cannot be written: {error.strerror}", hint="use another --data"
            ) from error
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_S, cached_statements=PREPARED
        )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise LedgerError(
                f"{path} cannot be used: {error}", hint="move it, or use another --data"
            ) from error
        self._path = path.absolute()
        self._file = self._there()

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[Mapping[str, Any]]:
        cursor = self._connection.execute(sql, params)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def run(self, sql: str, params: Sequence[object] = ()) -> int:
        return self._connection.execute(sql, params).rowcount

    def select_for(
        self, columns: str, rest: str, table: Mapping[str, Type], values: Sequence[Row]
    ) -> list[list[Any]]:
        sql = f"SELECT json_group_array(json_array({columns})) {rest}"
        found: list[list[Any]] = []
        for statement, params in _chunks(sql, tuple(table), values):
            (text,) = self._connection.execute(statement, params).fetchone()
            found += msgspec.json.decode(text)
        return found

    def run_for(self, sql: str, table: Mapping[str, Type], values: Sequence[Row]) -> int:
        return sum(
            self._connection.execute(statement, params).rowcount
            for statement, params in _chunks(sql, tuple(table), values)
        )

    def insert(self, table: str, columns: Mapping[str, Type], values: Sequence[Row]) -> None:
        start, width = 0, len(columns)
        while start < len(values):
            size = min(LARGEST_CHUNK, 1 << ((len(values) - start).bit_length() - 1))
            sql = _insertion(table, tuple(columns), size)
            chunk = values[start : start + size]
            params = [value for row in chunk for value in row]
            if len(params) != size * width:
                raise LedgerError(f"a row for {table} has not {width} values")
            self._connection.execute(sql, params)
            start += size

    def begin(self, *, alone: bool = False) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def snapshot(self) -> None:
        self._connection.execute("BEGIN")

    def commit(self) -> None:
        # what is written into a file that has no name any more, or not this one, is on no disk for anyone
        if self._there() != self._file:
            raise sqlite3.OperationalError("its file was deleted, moved or replaced while it was open")
        self._connection.execute("COMMIT")

    def _there(self) -> tuple[int, int] | None:
        """What lies at the path; null: nothing."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def rollback(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def durability(self) -> tuple[str, int | str]:
        """The journal mode and `synchronous`: ("wal", 2), of which 2 is FULL."""
        (mode,) = self._connection.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = self._connection.execute("PRAGMA synchronous").fetchone()
        return str(mode), int(synchronous)

    def meaning(self, error: BaseException) -> Meaning:
        """Disk full, read-only, locked for too long, corrupt: for all. The rest is what one brought in."""
        if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.InterfaceError):
            return "one"
        return "all" if isinstance(error, sqlite3.Error) else "one"

    def close(self) -> None:
        self._connection.close()


def _chunks(sql: str, columns: tuple[str, ...], values: Sequence[Row]) -> list[tuple[str, list[object]]]:
    """Statements with their values; each is filled up to a power of two by rows of nulls, which match none."""
    made = []
    for start in range(0, len(values), LARGEST_CHUNK):
        chunk = values[start : start + LARGEST_CHUNK]
        size = 1 << (len(chunk) - 1).bit_length()
        params = [value for row in chunk for value in row]
        params += [None] * (len(columns) * (size - len(chunk)))
        made.append((_with_rows(sql, columns, size), params))
    return made


@functools.lru_cache(maxsize=PREPARED)
def _with_rows(sql: str, columns: tuple[str, ...], size: int) -> str:
    renamed = ", ".join(f"column{number + 1} AS {name}" for number, name in enumerate(columns))
    return sql.replace(":rows:", f"(SELECT {renamed} FROM ({_values(len(columns), size)}))")  # noqa: S608 - no data


@functools.lru_cache(maxsize=PREPARED)
def _insertion(table: str, columns: tuple[str, ...], size: int) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) {_values(len(columns), size)}"


def _values(width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"VALUES {', '.join([row] * size)}"
