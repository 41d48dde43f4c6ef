"""`dutchdoor keys`: API keys of a ledger, while its server runs and without it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from dutchdoor.cli.options import data_folder, data_option, format_option
from dutchdoor.core import LedgerError
from dutchdoor.ledger.keys import Key, NewKey, Per
from dutchdoor.ledger.prices import nanodollars, usd
from dutchdoor.ledger.store import Balance, Ledger

T = TypeVar("T")


@click.group("keys")
def command() -> None:
    """Create, list and revoke API keys.

    Example: dutchdoor keys create --name alice --budget 5 --per month
    """


@command.command("create")
@click.option("--name", required=True, help="Whose key it is; for you to recognise it.")
@click.option("--budget", metavar="USD", help="What it may spend in a period.  [default: no limit]")
@click.option(
    "--per",
    type=click.Choice(["day", "month", "total"]),
    default="total",
    show_default=True,
    help="The period of the budget, UTC.",
)
@data_option()
@format_option()
def create(name: str, budget: str | None, per: Per, data: Path | None, format_: str) -> None:
    """Make a key; it is shown once.

    Example: dutchdoor keys create --name alice --budget 5 --per month --format json
    """
    amount = None if budget is None else nanodollars(budget)

    async def work(ledger: Ledger) -> NewKey:
        return await ledger.create_key(name, budget=amount, per=per)

    made = _with_ledger(data, work, create=True)
    if format_ == "json":
        row = {
            "id": made.id,
            "key": made.key,
            "name": made.name,
            "prefix": made.prefix,
            "created": made.created,
            "budget_nanodollars": made.budget,
            "per": made.per,
        }
        click.echo(msgspec.json.encode(row))
        return
    click.echo(made.key)
    limit = "no budget" if made.budget is None else f"{usd(made.budget)} USD per {made.per}"
    click.echo(f"{made.id} for {made.name}, {limit}; the key is shown this once", err=True)


@command.command("list")
@data_option()
@format_option()
def list_(data: Path | None, format_: str) -> None:
    """List keys with what they spent in their present period.

    Example: dutchdoor keys list --format json
    """

    async def work(ledger: Ledger) -> list[tuple[Key, Balance]]:
        return [(key, await ledger.balance(key)) for key in await ledger.keys()]

    rows = _with_ledger(data, work)
    if format_ == "json":
        click.echo(msgspec.json.encode([_row(key, balance) for key, balance in rows]))
        return
    if not rows:
        click.echo("no keys; `dutchdoor keys create --name NAME` makes one", err=True)
    for key, balance in rows:
        limit = "no budget" if key.budget is None else f"of {usd(key.budget)} USD per {key.per}"
        state = f"revoked {key.revoked}" if key.revoked else f"spent {usd(balance.spent)} {limit}"
        click.echo(f"{key.id}  {key.prefix}…  {key.name}  {state}")


@command.command("revoke")
@click.argument("key")
@data_option()
@format_option()
def revoke(key: str, data: Path | None, format_: str) -> None:
    """Revoke a key by its id, prefix or name; holds at once, also in a running server.

    Example: dutchdoor keys revoke key_0123456789ab
    """

    async def work(ledger: Ledger) -> Key:
        return await ledger.revoke_key(key)

    revoked = _with_ledger(data, work)
    if format_ == "json":
        click.echo(msgspec.json.encode({"id": revoked.id, "name": revoked.name, "revoked": revoked.revoked}))
    else:
        click.echo(f"{revoked.id} ({revoked.name}) is revoked")


def _row(key: Key, balance: Balance) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "created": key.created,
        "revoked": key.revoked,
        "budget_nanodollars": key.budget,
        "per": key.per,
        "period": balance.period,
        "spent_nanodollars": balance.spent,
        "held_nanodollars": balance.held,
    }


def _with_ledger(data: Path | None, work: Callable[[Ledger], Awaitable[T]], *, create: bool = False) -> T:
    """Do something with the ledger of a data folder; only `create` makes one where there is none."""
    folder = data_folder(None, data)

    async def opened() -> T:
        if not create and not (folder / "ledger.sqlite3").exists():
            raise LedgerError(f"there is no ledger in {folder}", hint="name the data folder with --data DIR")
        async with await Ledger.open_in(folder) as ledger:
            return await work(ledger)

    return asyncio.run(opened())
