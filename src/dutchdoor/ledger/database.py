"""The seam between the ledger and where it is kept: one small protocol, implemented for SQLite and PostgreSQL.

SQL is written once: `?` stands for a value in both, and `:rows:` for a table of values that travels with the
statement, so that one statement does the work of a whole group of requests. Knows nothing of money.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from dutchdoor.core import LedgerError

# what an error means for the transaction it ended: do it `again`; the connection is `lost`; it would fail
# for `all` that are in it; or it is the fault of `one` operation of the group
Meaning = Literal["again", "lost", "all", "one"]
Place = Path | str
Type = Literal["text", "bigint"]
Row = Sequence[object]


class Database(Protocol):
    """One connection, used by one thread at a time."""

    locking: str  # what a SELECT ends with that keeps its rows from other writers until the commit

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[Mapping[str, Any]]:
        """What a statement returns, by column name."""
        ...

    def run(self, sql: str, params: Sequence[object] = ()) -> int:
        """Run a statement; how many rows it changed."""
        ...

    def select_for(
        self, columns: str, rest: str, table: Mapping[str, Type], values: Sequence[Row]
    ) -> list[list[Any]]:
        """`SELECT columns rest` as lists; in `rest`, `:rows:` is a table of `values` with these columns."""
        ...

    def run_for(self, sql: str, table: Mapping[str, Type], values: Sequence[Row]) -> int:
        """Run a statement in which `:rows:` is a table of values; how many rows it changed."""
        ...

    def insert(self, table: str, columns: Mapping[str, Type], values: Sequence[Row]) -> None:
        """Insert many rows."""
        ...

    def begin(self, *, alone: bool = False) -> None:
        """Start a transaction that writes; `alone`: no other process's transaction runs beside it."""
        ...

    def snapshot(self) -> None:
        """Start a transaction that only reads, and sees one state throughout."""
        ...

    def commit(self) -> None: ...

    def rollback(self) -> None:
        """End the transaction, if there is one; never raises."""
        ...

    def durability(self) -> tuple[str, int | str]:
        """The settings on which it rests that a commit is on the disk, read back from this connection."""
        ...

    def meaning(self, error: BaseException) -> Meaning: ...

    def close(self) -> None: ...


def is_url(place: Place) -> bool:
    """Whether a place is PostgreSQL; else it is a file."""
    return isinstance(place, str) and place.startswith(("postgresql://", "postgres://"))


def named(place: Place) -> str:
    """A place as it may be shown: without the user, the password and the options of a URL."""
    if not is_url(place):
        return str(place)
    scheme, _, rest = str(place).partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def connect(place: Place) -> Database:
    """A connection in which a commit is on the disk when it returns; raises LedgerError."""
    if is_url(place):
        from dutchdoor.ledger.postgres import Postgres

        return Postgres(str(place))
    if isinstance(place, str) and "://" in place:
        raise LedgerError(
            f"no ledger can be kept at {named(place).partition('://')[0]}://",
            hint="name a file, or postgresql://USER@HOST/DATABASE",
        )
    from dutchdoor.ledger.sqlite import Sqlite

    return Sqlite(Path(place))
