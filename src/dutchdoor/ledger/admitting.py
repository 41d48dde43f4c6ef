"""Admitting: the worst case of requests is held against their budgets, those that came first, first.

Keys and budgets are read in the transaction: a request whose key was revoked or got another secret since it
was looked up is refused, and what a budget is now counts, not what it was.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from dutchdoor.core import LedgerError
from dutchdoor.ledger.database import Database, Type
from dutchdoor.ledger.keys import Per, period_of, stamp
from dutchdoor.ledger.requests import Admission, BudgetError, KeyRefusedError, Reservation, UnpricedError
from dutchdoor.ledger.settling import ID
from dutchdoor.ledger.spends import Spend, Spends

ACCOUNT: Final[dict[str, Type]] = {"account": "text"}
RESERVATION: Final[dict[str, Type]] = {
    "id": "text",
    "run": "text",
    "key": "text",
    "team": "text",
    "families": "text",
    "model": "text",
    "target": "text",
    "at": "text",
    "nanodollars": "bigint",
    "holds": "text",
}
KEY = "id, hash, revoked, version, budget, per, team"
FIND_KEYS = "FROM keys WHERE id IN (SELECT id FROM :rows: AS given)"
FIND_BUDGETS = "FROM budgets WHERE account IN (SELECT account FROM :rows: AS given)"
KINDS = {"team": "its team", "family": "the model's family"}


class _Key(msgspec.Struct, array_like=True):
    """A key as it is now, in the order of `KEY`."""

    id: str
    hash: str
    revoked: str | None
    version: int
    budget: int | None
    per: Per
    team: str | None


class _Plan(msgspec.Struct):
    """What requests of one key, for the same families at the same time, are held against."""

    key: _Key
    families: str
    at: str
    accounts: tuple[Spend, ...]
    holds: str


class Admitting:
    """The admissions of one group; `plan`, then read the accounts, then `admit`.

    `stale` gathers the hashes of keys that were looked up before their last change.
    """

    def __init__(self, admissions: Sequence[Admission], run: str, stamped: str) -> None:
        self._admissions = admissions
        self._run = run
        self._stamped = stamped
        self._plans: dict[tuple[str, tuple[str, ...], str], _Plan] = {}
        self._keys: dict[str, _Key] = {}
        self.stale: set[str] = set()

    def plan(self, db: Database, spends: Spends) -> None:
        """Read keys and budgets, and name the accounts."""
        ids = dict.fromkeys(admission.key.id for admission in self._admissions)
        rows = db.select_for(KEY, FIND_KEYS, ID, [(each,) for each in ids])
        self._keys = {row[0]: _Key(*row) for row in rows}
        names = {f"team:{key.team}": None for key in self._keys.values() if key.team is not None}
        names |= {f"family:{each}": None for admission in self._admissions for each in admission.families}
        budgets: dict[str, tuple[int, Per]] = {}
        if names:
            shared = db.select_for("account, budget, per", FIND_BUDGETS, ACCOUNT, [(each,) for each in names])
            budgets = {account: (budget, per) for account, budget, per in shared}
        for admission in self._admissions:
            key = self._keys.get(admission.key.id)
            at = self._stamped if admission.at is None else stamp(admission.at)
            place = (admission.key.id, admission.families, at)
            if key is not None and place not in self._plans:
                self._plans[place] = _plan(key, admission.families, at, budgets, spends)

    def admit(self, db: Database) -> list[Reservation | LedgerError]:
        """Decide each request in turn and write the reservations of those that fit."""
        outcomes: list[Reservation | LedgerError] = []
        reserved: list[tuple[object, ...]] = []
        for admission in self._admissions:
            refusal = self._refusal(admission)
            if refusal is not None:
                outcomes.append(refusal)
                continue
            at = self._stamped if admission.at is None else stamp(admission.at)
            plan = self._plans[admission.key.id, admission.families, at]
            amount = admission.nanodollars
            held = next((each for each in plan.accounts if each.budget is not None), None)
            if admission.unpriced and held is not None:
                outcomes.append(_unpriced(held.account))
                continue
            full = next((each for each in plan.accounts if not each.holds(amount)), None)
            if full is not None:
                outcomes.append(_full(full.account))
                continue
            for each in plan.accounts:
                each.admitted += amount
            owner = (self._run, plan.key.id, plan.key.team, plan.families)
            reserved.append((admission.id, *owner, admission.model, admission.target, at, amount, plan.holds))
            outcomes.append(Reservation(id=admission.id, key=plan.key.id, nanodollars=amount))
        if reserved:
            db.insert("reservations", RESERVATION, reserved)
        return outcomes

    def _refusal(self, admission: Admission) -> KeyRefusedError | None:
        known = admission.key
        key = self._keys.get(known.id)
        if key is not None and key.hash == known.hash and key.revoked is None:
            if key.version != known.version:
                self.stale.add(known.hash)
            return None
        self.stale.add(known.hash)
        if key is None:
            return KeyRefusedError("there is no such key")
        return KeyRefusedError("the key was revoked" if key.revoked else "the key has another secret by now")


def _plan(
    key: _Key, families: tuple[str, ...], at: str, budgets: dict[str, tuple[int, Per]], spends: Spends
) -> _Plan:
    own = spends.of(key.id, period_of(key.per, at))
    own.budget = key.budget
    accounts = [own]
    shared = [] if key.team is None else [f"team:{key.team}"]
    for account in dict.fromkeys(shared + [f"family:{each}" for each in families]):
        if account in budgets:  # without a budget there is nothing to hold
            budget, per = budgets[account]
            spend = spends.of(account, period_of(per, at))
            spend.budget = budget
            accounts.append(spend)
    return _Plan(
        key=key,
        families=_text(families),
        at=at,
        accounts=tuple(accounts),
        holds=_text([(each.account, each.period) for each in accounts]),
    )


def _full(account: str) -> BudgetError:
    whose = _whose(account)
    return BudgetError(f"the budget of {whose} does not hold the worst case of this request", account=account)


def _unpriced(account: str) -> UnpricedError:
    whose = _whose(account)
    return UnpricedError(f"the budget of {whose} cannot be held against an unknown price", account=account)


def _whose(account: str) -> str:
    return KINDS.get(account.partition(":")[0], "this key") if ":" in account else "this key"


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
