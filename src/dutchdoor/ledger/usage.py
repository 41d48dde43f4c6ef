"""What a key used: what it may still spend in its present period, and a span of time by model and by day."""

import datetime
from typing import Literal

import msgspec

from dutchdoor.core import LedgerError
from dutchdoor.ledger.bill import Line, Snapshot, sum_up
from dutchdoor.ledger.keys import Per, period

Scope = Literal["key", "team"]


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """A budget in its present period, UTC, in nano-dollars; `remaining` is null where there is no limit.

    `held` is reserved for requests under way; a request is admitted if its worst case is in what remains.
    A team's is shared by all its keys.
    """

    scope: Scope
    name: str
    per: Per
    period: str
    budget_nanodollars: int | None
    spent_nanodollars: int
    held_nanodollars: int
    remaining_nanodollars: int | None


class UsageOfKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a key used from `since` up to, but not including, `until` (by admission, UTC).

    `budgets` are the key's and, if it has one, its team's. `total_nanodollars` is the sum of all known
    amounts.
    """

    key: str
    since: str
    until: str
    budgets: tuple[Allowance, ...]
    by_model: tuple[Line, ...]
    by_day: tuple[Line, ...]
    total_nanodollars: int


def read_usage_of(db: Snapshot, key: str, since: str, until: str, moment: datetime.datetime) -> UsageOfKey:
    """Sum up what a key (its id) used; budgets are those of the periods in which a moment falls.

    Times are as the ledger writes them, see `events.instant`. Raises LedgerError where there is no such key.
    """
    where, params = "key = ? AND at >= ? AND at < ?", (key, since, until)
    by_model = sum_up(db, where, params, ("model",))
    return UsageOfKey(
        key=key,
        since=since,
        until=until,
        budgets=_budgets(db, key, moment),
        by_model=by_model,
        by_day=sum_up(db, where, params, ("day",)),
        total_nanodollars=sum(line.nanodollars or 0 for line in by_model),
    )


def _budgets(db: Snapshot, key: str, moment: datetime.datetime) -> tuple[Allowance, ...]:
    found = db.rows("SELECT name, team, per, budget FROM keys WHERE id = ?", (key,))
    if not found:
        raise LedgerError(f"there is no key {key!r}", hint="dutchdoor keys list")
    own = found[0]
    budgets = [_allowance(db, "key", own["name"], key, own["per"], own["budget"], moment)]
    if (team := own["team"]) is not None:
        account = f"team:{team}"
        for row in db.rows("SELECT per, budget FROM budgets WHERE account = ?", (account,)):
            budgets.append(_allowance(db, "team", team, account, row["per"], row["budget"], moment))
    return tuple(budgets)


def _allowance(
    db: Snapshot,
    scope: Scope,
    name: str,
    account: str,
    per: Per,
    budget: int | None,
    moment: datetime.datetime,
) -> Allowance:
    """A budget with what remains of it, which is never below 0."""
    named = period(per, moment)
    rows = db.rows("SELECT spent, held FROM spend WHERE account = ? AND period = ?", (account, named))
    spent, held = (rows[0]["spent"], rows[0]["held"]) if rows else (0, 0)
    return Allowance(
        scope=scope,
        name=name,
        per=per,
        period=named,
        budget_nanodollars=budget,
        spent_nanodollars=spent,
        held_nanodollars=held,
        remaining_nanodollars=None if budget is None else max(0, budget - spent - held),
    )
