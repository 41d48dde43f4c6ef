"""Changes to keys and budgets, each in a transaction that no request's runs beside.

So when a budget begins, what was spent in its period is summed from the bookings, and what is under way is
held against it: a budget set in mid-month knows the whole month.
"""

import secrets
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from dutchdoor.core import LedgerError
from dutchdoor.ledger.database import Database, Type
from dutchdoor.ledger.keys import (
    SHOWN,
    Key,
    NewKey,
    Per,
    hash_secret,
    new_secret,
    now,
    period,
    stamp,
)
from dutchdoor.ledger.requests import LARGEST_REQUEST, Balance

LARGEST_RATE = 1 << 53  # requests or tokens a minute; what every reader of JSON keeps exactly
KINDS = ("team", "family")
NEXT = "~"  # sorts after every sign of a time
ENTRY: Final[dict[str, Type]] = {
    "id": "text",
    "name": "text",
    "prefix": "text",
    "hash": "text",
    "created": "text",
    "budget": "bigint",
    "per": "text",
    "rpm": "bigint",
    "tpm": "bigint",
    "team": "text",
    "admin": "bigint",
}


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A budget that keys share: `account` is `team:NAME` or `family:NAME`, `budget` nano-dollars a period."""

    account: str
    budget: int
    per: Per


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What `set_key` changes; what is not named stays, null takes a limit away."""

    budget: int | UnsetType | None = UNSET
    per: Per | UnsetType = UNSET
    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    team: str | UnsetType | None = UNSET
    admin: bool | UnsetType = UNSET


def create_key(db: Database, name: str, limits: Change) -> NewKey:
    """Make a key; the secret in the answer is nowhere else."""
    _check_name(name, "a key")
    _check(limits)
    secret = new_secret()
    limited: dict[str, Any] = {"budget": None, "per": "total", "rpm": None, "tpm": None, "team": None}
    limited |= {"admin": False} | _named(limits)
    made = NewKey(
        id="key_" + secrets.token_hex(6),
        key=secret,
        name=name,
        prefix=secret[:SHOWN],
        created=stamp(now()),
        **limited,
    )
    row = msgspec.structs.asdict(made) | {"hash": hash_secret(secret), "admin": int(made.admin)}
    db.insert("keys", ENTRY, [tuple(row[column] for column in ENTRY)])
    return made


def revoke_key(db: Database, named: str) -> Key:
    """Revoke a key by id, prefix or a name that only one has; revoking twice is revoking once."""
    key = one_key(db, named)
    if key.revoked is None:
        _update(db, key.id, {"revoked": stamp(now())})
    return key_by_id(db, key.id)


def rotate_key(db: Database, named: str) -> NewKey:
    """Give a key a new secret; the old one is dead, what was used and what may be goes on."""
    key = _living(db, named)
    secret = new_secret()
    _update(db, key.id, {"hash": hash_secret(secret), "prefix": secret[:SHOWN]})
    changed = key_by_id(db, key.id)
    shared = {name: getattr(changed, name) for name in NewKey.__struct_fields__ if name != "key"}
    return NewKey(key=secret, **shared)


def set_key(db: Database, named: str, change: Change) -> Key:
    """Change what a key may spend and whose it is."""
    _check(change)
    key = _living(db, named)
    values = _named(change)
    if not values:
        return key
    _update(db, key.id, {name: int(value) if name == "admin" else value for name, value in values.items()})
    changed = key_by_id(db, key.id)
    if changed.per != key.per:
        _recount(db, key.id, changed.per)
    return changed


def set_budget(db: Database, account: str, budget: int, per: Per) -> Budget:
    """Give a team or a family a budget, from what it has used in this period on."""
    kind, _, name = account.partition(":")
    if kind not in KINDS:
        raise LedgerError(f"{account!r} has no budget of its own", hint="name it team:NAME or family:NAME")
    _check_name(name, f"a {kind}")
    _check(Change(budget=budget, per=per))
    db.run(
        "INSERT INTO budgets (account, budget, per) VALUES (?, ?, ?) ON CONFLICT (account)"
        " DO UPDATE SET budget = excluded.budget, per = excluded.per",
        (account, budget, per),
    )
    _recount(db, account, per)
    return Budget(account=account, budget=budget, per=per)


def remove_budget(db: Database, account: str) -> None:
    """Let a team or a family spend without a limit of its own; what is booked stays booked."""
    if not db.run("DELETE FROM budgets WHERE account = ?", (account,)):
        raise LedgerError(f"there is no budget for {account!r}", hint="dutchdoor budgets list")


def budgets(db: Database) -> list[Budget]:
    """The budgets that keys share, by name."""
    return [Budget(**row) for row in db.rows("SELECT account, budget, per FROM budgets ORDER BY account")]


def balance(db: Database, account: str, per: Per) -> Balance:
    """What an account has spent and holds in its present period."""
    named = period(per, now())
    rows = db.rows("SELECT spent, held FROM spend WHERE account = ? AND period = ?", (account, named))
    spent, held = (rows[0]["spent"], rows[0]["held"]) if rows else (0, 0)
    return Balance(period=named, spent=spent, held=held)


def all_keys(db: Database) -> list[Key]:
    """All keys, the oldest first."""
    return [_key(row) for row in db.rows("SELECT * FROM keys ORDER BY created, id")]


def key_by_hash(db: Database, hash_: str) -> Key | None:
    """The key of a secret's hash, or null where there is none or it was revoked."""
    rows = db.rows("SELECT * FROM keys WHERE hash = ? AND revoked IS NULL", (hash_,))
    return _key(rows[0]) if rows else None


def key_by_id(db: Database, id_: str) -> Key:
    return _key(db.rows("SELECT * FROM keys WHERE id = ?", (id_,))[0])


def one_key(db: Database, named: str) -> Key:
    """A key by id, prefix or name, a living one before revoked ones; raises LedgerError for none or several."""
    rows = db.rows("SELECT * FROM keys WHERE id = ? OR prefix = ? OR name = ?", (named, named, named))
    exact = [row for row in rows if row["id"] == named]  # an id is never taken for another key's name
    found = exact or [row for row in rows if row["revoked"] is None] or rows
    if not found:
        raise LedgerError(f"there is no key {named!r}", hint="dutchdoor keys list")
    if len(found) > 1:
        raise LedgerError(f"{len(found)} keys are called {named!r}", hint="name the key by its id")
    return _key(found[0])


def _living(db: Database, named: str) -> Key:
    key = one_key(db, named)
    if key.revoked is not None:
        raise LedgerError(f"{key.id} was revoked", hint="make a new key: dutchdoor keys create")
    return key


def _update(db: Database, id_: str, values: dict[str, Any]) -> None:
    settings = ", ".join(f"{column} = ?" for column in values)
    db.run(f"UPDATE keys SET {settings}, version = version + 1 WHERE id = ?", (*values.values(), id_))  # noqa: S608 - columns of ours


def _key(row: Any) -> Key:
    return Key(**{**row, "admin": bool(row["admin"])})


def _named(change: Change) -> dict[str, Any]:
    values = {name: getattr(change, name) for name in Change.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}


def _recount(db: Database, account: str, per: Per) -> None:
    """Make an account's row of its present period what the bookings and the open reservations come to."""
    named = period(per, now())
    start = "" if per == "total" else named
    kind, _, name = account.partition(":") if ":" in account else ("key", "", account)
    held = 0
    open_ = db.rows(
        "SELECT id, key, team, families, nanodollars, holds, at FROM reservations WHERE at >= ? AND at < ?",
        (start, start + NEXT),
    )
    for row in open_:
        whose = msgspec.json.decode(row["families"]) if kind == "family" else [row[kind]]
        if name not in whose:
            continue
        held += row["nanodollars"]
        holds = msgspec.json.decode(row["holds"])
        if [account, named] not in holds:
            text = msgspec.json.encode([*holds, [account, named]]).decode()
            db.run("UPDATE reservations SET holds = ? WHERE id = ?", (text, row["id"]))
    spent = db.rows(
        f"SELECT coalesce(sum(nanodollars), 0) AS spent FROM usage WHERE {kind} = ? AND at >= ? AND at < ?",  # noqa: S608 - a column of ours
        (name, start, start + NEXT),
    )[0]["spent"]
    db.run(
        "INSERT INTO spend (account, period, spent, held) VALUES (?, ?, ?, ?) ON CONFLICT (account, period)"
        " DO UPDATE SET spent = excluded.spent, held = excluded.held",
        (account, named, spent, held),
    )


def _check(limits: Change) -> None:
    if isinstance(limits.budget, int) and not 0 <= limits.budget <= LARGEST_REQUEST:
        raise LedgerError(f"a budget of {limits.budget} nano-dollars cannot be held")
    for name, rate in (("rpm", limits.rpm), ("tpm", limits.tpm)):
        if isinstance(rate, int) and not 1 <= rate <= LARGEST_RATE:
            raise LedgerError(f"{name} {rate} is no limit", hint="use 1 or more; revoke a key to stop it")
    if isinstance(limits.team, str):
        _check_name(limits.team, "a team")


def _check_name(name: str, what: str) -> None:
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise LedgerError(f"{name!r} is no name for {what}", hint="use 1 to 200 printable characters")
