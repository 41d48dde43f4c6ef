"""How a ledger of version 1 becomes one of version 2, in the transaction that found it.

Version 1 was SQLite only, had no teams, families or cached tokens, and a price of two integers.
"""

from collections.abc import Callable

from dutchdoor.ledger.database import Database

OLD = ("keys", "spend", "reservations", "prices", "usage")
COPIES = (
    "INSERT INTO keys (id, name, prefix, hash, created, revoked, budget, per)"
    " SELECT id, name, prefix, lower(hex(hash)), created, revoked, budget, per FROM old_keys",
    "INSERT INTO spend SELECT key, period, spent, held FROM old_spend",
    "INSERT INTO reservations SELECT id, run, key, NULL, '[]', model, target, at, nanodollars,"
    " json_array(json_array(key, period)) FROM old_reservations",
    "INSERT INTO prices SELECT id, target, json_object('input', input, 'output', output), 'stated', since"
    " FROM old_prices",
    "INSERT INTO usage SELECT id, key, NULL, NULL, model, target, at, ended, state, counted, input_tokens, 0, 0,"
    " output_tokens, reserved, price, nanodollars, alarm FROM old_usage",
)


def from_version_1(db: Database, create: Callable[[], None]) -> None:
    """Move every row into the tables that `create` makes. Nothing is summed anew: money is copied."""
    db.run("DROP INDEX usage_at")
    for table in OLD:
        db.run(f"ALTER TABLE {table} RENAME TO old_{table}")
    create()
    for copy in COPIES:
        db.run(copy)
    for table in (
        "usage",
        "reservations",
        "spend",
        "prices",
        "keys",
    ):  # what refers before what is referred to
        db.run(f"DROP TABLE old_{table}")
