"""`dutchdoor keys`: API keys of a ledger, while its server runs and without it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from msgspec import UNSET

from dutchdoor.cli.books import books_options, read_books
from dutchdoor.cli.options import data_folder, format_option
from dutchdoor.core import UsageError
from dutchdoor.ledger.accounts import Change
from dutchdoor.ledger.keys import Key, NewKey, Per
from dutchdoor.ledger.prices import nanodollars, usd
from dutchdoor.ledger.store import Balance, Ledger

T = TypeVar("T")
PER = click.Choice(["day", "month", "total"])


@click.group("keys")
def command() -> None:
    """Create, change and revoke API keys.

    Example: dutchdoor keys create --name alice --budget 5 --per month
    """


@command.command("create")
@click.option("--name", required=True, help="Whose key it is; for you to recognise it.")
@click.option("--budget", metavar="USD", help="What it may spend in a period.  [default: no limit]")
@click.option("--per", type=PER, default="total", show_default=True, help="The period of the budget, UTC.")
@click.option("--rpm", type=int, metavar="N", help="Requests a minute.  [default: no limit]")
@click.option("--tpm", type=int, metavar="N", help="Tokens a minute.  [default: no limit]")
@click.option("--team", help="Whose budget it spends from too; see `dutchdoor budgets`.")
@click.option("--admin", is_flag=True, help="It may change keys and routes through the API.")
@books_options()
@format_option()
def create(
    name: str,
    budget: str | None,
    per: Per,
    rpm: int | None,
    tpm: int | None,
    team: str | None,
    admin: bool,
    data: Path | None,
    ledger_url: str | None,
    format_: str,
) -> None:
    """Make a key; it is shown once.

    Example: dutchdoor keys create --name alice --budget 5 --per month --format json
    """
    amount = None if budget is None else nanodollars(budget)

    async def work(ledger: Ledger) -> NewKey:
        return await ledger.create_key(name, budget=amount, per=per, rpm=rpm, tpm=tpm, team=team, admin=admin)

    _show_new(_made(data, ledger_url, work), format_)


@command.command("list")
@books_options()
@format_option()
def list_(data: Path | None, ledger_url: str | None, format_: str) -> None:
    """List keys with what they spent in their present period.

    Example: dutchdoor keys list --format json
    """

    async def work(ledger: Ledger) -> list[tuple[Key, Balance]]:
        return [(key, await ledger.balance(key)) for key in await ledger.keys()]

    rows = read_books(data, ledger_url, work)
    if format_ == "json":
        click.echo(msgspec.json.encode([_row(key, balance) for key, balance in rows]))
        return
    if not rows:
        click.echo("no keys; `dutchdoor keys create --name NAME` makes one", err=True)
    for key, balance in rows:
        limit = "no budget" if key.budget is None else f"of {usd(key.budget)} USD per {key.per}"
        state = (
            f"revoked {key.revoked}" if key.revoked else f"spent {usd(balance.spent)} {limit}{_limits(key)}"
        )
        click.echo(f"{key.id}  {key.prefix}…  {key.name}  {state}")


@command.command("revoke")
@click.argument("key")
@books_options()
@format_option()
def revoke(key: str, data: Path | None, ledger_url: str | None, format_: str) -> None:
    """Revoke a key by its id, prefix or name; holds at once, also in a running server.

    Example: dutchdoor keys revoke key_0123456789ab
    """

    async def work(ledger: Ledger) -> Key:
        return await ledger.revoke_key(key)

    revoked = read_books(data, ledger_url, work)
    if format_ == "json":
        click.echo(msgspec.json.encode({"id": revoked.id, "name": revoked.name, "revoked": revoked.revoked}))
    else:
        click.echo(f"{revoked.id} ({revoked.name}) is revoked")


@command.command("rotate")
@click.argument("key")
@books_options()
@format_option()
def rotate(key: str, data: Path | None, ledger_url: str | None, format_: str) -> None:
    """Give a key a new secret, shown once; the old one is dead at once, usage and budget go on.

    Example: dutchdoor keys rotate alice
    """

    async def work(ledger: Ledger) -> NewKey:
        return await ledger.rotate_key(key)

    _show_new(read_books(data, ledger_url, work), format_)


@command.command("set")
@click.argument("key")
@click.option("--budget", metavar="USD", help="What it may spend in a period.")
@click.option("--no-budget", is_flag=True, help="Let it spend without a limit of its own.")
@click.option("--per", type=PER, help="The period of the budget, UTC; what it used in it counts.")
@click.option("--rpm", type=int, metavar="N", help="Requests a minute.")
@click.option("--no-rpm", is_flag=True, help="No limit of requests.")
@click.option("--tpm", type=int, metavar="N", help="Tokens a minute.")
@click.option("--no-tpm", is_flag=True, help="No limit of tokens.")
@click.option("--team", help="Whose budget it spends from too.")
@click.option("--no-team", is_flag=True, help="Take it out of its team.")
@click.option("--admin/--no-admin", default=None, help="Whether it may change keys and routes.")
@books_options()
@format_option()
def set_(
    key: str, data: Path | None, ledger_url: str | None, format_: str, per: Per | None, admin: bool | None,
    **limits: Any,
) -> None:  # fmt: skip
    """Change what a key may spend and whose it is; what is not named stays.

    Example: dutchdoor keys set alice --budget 10 --per month --no-rpm
    """
    if limits["budget"] is not None:
        limits["budget"] = nanodollars(limits["budget"])
    change = Change(
        per=UNSET if per is None else per,
        admin=UNSET if admin is None else admin,
        **{name: _wanted(limits, name) for name in ("budget", "rpm", "tpm", "team")},
    )
    if change == Change():
        raise UsageError("nothing to change was named", hint="dutchdoor keys set --help")

    async def work(ledger: Ledger) -> tuple[Key, Balance]:
        changed = await ledger.set_key(key, change)
        return changed, await ledger.balance(changed)

    changed, balance = read_books(data, ledger_url, work)
    if format_ == "json":
        click.echo(msgspec.json.encode(_row(changed, balance)))
    else:
        click.echo(f"{changed.id} ({changed.name}): {_budget(changed)}{_limits(changed)}")


def _wanted(limits: dict[str, Any], name: str) -> Any:
    value, none = limits[name], limits[f"no_{name}"]
    if value is not None and none:
        raise UsageError(f"--{name} and --no-{name} cannot both be meant")
    return None if none else UNSET if value is None else value


def _show_new(made: NewKey, format_: str) -> None:
    if format_ == "json":
        row = {("budget_nanodollars" if name == "budget" else name): value
               for name, value in msgspec.structs.asdict(made).items()}  # fmt: skip
        click.echo(msgspec.json.encode(row))
        return
    click.echo(made.key)
    click.echo(
        f"{made.id} for {made.name}, {_budget(made)}{_limits(made)}; the key is shown this once", err=True
    )


def _budget(key: Key | NewKey) -> str:
    return "no budget" if key.budget is None else f"{usd(key.budget)} USD per {key.per}"


def _limits(key: Key | NewKey) -> str:
    said = [f"{rate} {name}" for name, rate in (("rpm", key.rpm), ("tpm", key.tpm)) if rate is not None]
    said += [f"team {key.team}"] if key.team is not None else []
    said += ["admin"] if key.admin else []
    return "".join(f", {each}" for each in said)


def _row(key: Key, balance: Balance) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "created": key.created,
        "revoked": key.revoked,
        "budget_nanodollars": key.budget,
        "per": key.per,
        "rpm": key.rpm,
        "tpm": key.tpm,
        "team": key.team,
        "admin": key.admin,
        "period": balance.period,
        "spent_nanodollars": balance.spent,
        "held_nanodollars": balance.held,
    }


def _made(data: Path | None, url: str | None, work: Callable[[Ledger], Awaitable[T]]) -> T:
    """Do something with a ledger, which is made where there is none: the first key begins one."""

    async def opened() -> T:
        async with await Ledger.open_in(data_folder(None, data), url) as ledger:
            return await work(ledger)

    return asyncio.run(opened())
