"""What a group of requests does to accounts: gathered in memory, written as one row an account.

An account is a key (its id), a team (`team:NAME`) or a model family (`family:NAME`), in a period.
"""

from typing import Any, Final

from dutchdoor.core import LedgerError
from dutchdoor.ledger.database import Database, Type

PLACE: Final[dict[str, Type]] = {"account": "text", "period": "text"}
CHANGE: Final[dict[str, Type]] = {
    **PLACE,
    "admitted": "bigint",
    "released": "bigint",
    "charged": "bigint",
    "budget": "bigint",
}
READ = "FROM spend WHERE (account, period) IN (SELECT account, period FROM :rows: AS given) ORDER BY account, period"
ADD = (
    "INSERT INTO spend (account, period) SELECT account, period FROM :rows: AS given"
    " WHERE given.account IS NOT NULL ORDER BY account, period ON CONFLICT DO NOTHING"
)
WRITE = (  # the one statement that moves money, and it holds the budget itself
    "UPDATE spend SET spent = spend.spent + given.charged,"
    " held = spend.held + given.admitted - given.released"
    " FROM :rows: AS given WHERE spend.account = given.account AND spend.period = given.period"
    " AND (given.admitted = 0 OR given.budget IS NULL OR"
    " spend.spent + given.charged + spend.held + given.admitted - given.released <= given.budget)"
)


class Spend:
    """An account in a period. `taken` is what was spent and held before the group; null until it is read."""

    __slots__ = ("account", "admitted", "budget", "charged", "period", "released", "taken")

    def __init__(self, account: str, period: str) -> None:
        self.account = account
        self.period = period
        self.budget: int | None = None
        self.taken: int | None = None
        self.admitted = self.released = self.charged = 0

    def holds(self, amount: int) -> bool:
        """Whether its budget has room for an amount."""
        if self.budget is None:
            return True
        if self.taken is None:
            raise LedgerError(f"{self.account} was not read before it was asked for room")
        return self.taken + self.admitted - self.released + self.charged + amount <= self.budget


class Spends:
    """The accounts that a group touches."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Spend] = {}

    def of(self, account: str, period: str) -> Spend:
        spend = self._all.get((account, period))
        if spend is None:
            spend = self._all[account, period] = Spend(account, period)
        return spend

    def read(self, db: Database) -> None:
        """Read what is taken of each, with the rows locked in one order so that no two groups can wait for
        each other; makes the rows of periods that begin.
        """
        missing = self._read(db, list(self._all))
        if missing:
            db.run_for(ADD, PLACE, sorted(missing))
            self._read(db, missing)

    def write(self, db: Database) -> None:
        """Write all that changed; raises LedgerError where the database would not have it."""
        changed: list[tuple[Any, ...]] = [
            (each.account, each.period, each.admitted, each.released, each.charged, each.budget)
            for each in self._all.values()
            if each.admitted or each.released or each.charged
        ]
        if changed and db.run_for(WRITE, CHANGE, changed) != len(changed):
            raise LedgerError("an account changed while it was locked", hint="nothing of it was written")

    def _read(self, db: Database, places: list[tuple[str, str]]) -> list[tuple[str, str]]:
        found = db.select_for("account, period, spent + held", READ + db.locking, PLACE, places)
        for account, period, taken in found:
            self._all[account, period].taken = taken
        return [place for place in places if self._all[place].taken is None]
