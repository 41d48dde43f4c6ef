"""`dutchdoor budgets`: what teams and model families may spend, while the server runs and without it."""

from pathlib import Path

import click
import msgspec

from dutchdoor.cli.books import books_options, read_books
from dutchdoor.cli.options import format_option
from dutchdoor.ledger.keys import Per
from dutchdoor.ledger.prices import nanodollars, usd
from dutchdoor.ledger.store import Balance, Budget, Ledger


@click.group("budgets")
def command() -> None:
    """Set budgets that keys share: of a team, or of a model family.

    Example: dutchdoor budgets set team:research --budget 100 --per month
    """


@command.command("set")
@click.argument("account", metavar="team:NAME|family:NAME")
@click.option("--budget", metavar="USD", required=True, help="What it may spend in a period.")
@click.option(
    "--per",
    type=click.Choice(["day", "month", "total"]),
    default="total",
    show_default=True,
    help="The period of the budget, UTC; what was used in it counts.",
)
@books_options()
@format_option()
def set_(
    account: str, budget: str, per: Per, data: Path | None, ledger_url: str | None, format_: str
) -> None:
    """Give a team or a family a budget, or another one; holds from the next request on.

    Example: dutchdoor budgets set family:gable --budget 250 --per month
    """
    amount = nanodollars(budget)

    async def work(ledger: Ledger) -> list[tuple[Budget, Balance]]:
        await ledger.set_budget(account, amount, per)
        return [each for each in await ledger.budgets() if each[0].account == account]

    _show(read_books(data, ledger_url, work), format_, one=True)


@command.command("list")
@books_options()
@format_option()
def list_(data: Path | None, ledger_url: str | None, format_: str) -> None:
    """List shared budgets with what is spent and held in their present period.

    Example: dutchdoor budgets list --format json
    """
    rows = read_books(data, ledger_url, lambda ledger: ledger.budgets())
    if not rows and format_ == "text":
        click.echo("no budgets; `dutchdoor budgets set team:NAME --budget USD` sets one", err=True)
    _show(rows, format_)


@command.command("remove")
@click.argument("account", metavar="team:NAME|family:NAME")
@books_options()
@format_option()
def remove(account: str, data: Path | None, ledger_url: str | None, format_: str) -> None:
    """Take a shared budget away; what is booked stays booked.

    Example: dutchdoor budgets remove team:research
    """
    read_books(data, ledger_url, lambda ledger: ledger.remove_budget(account))
    if format_ == "json":
        click.echo(msgspec.json.encode({"account": account, "removed": True}))
    else:
        click.echo(f"{account} has no budget any more")


def _show(rows: list[tuple[Budget, Balance]], format_: str, *, one: bool = False) -> None:
    if format_ == "json":
        shown = [
            {
                "account": each.account,
                "budget_nanodollars": each.budget,
                "per": each.per,
                "period": balance.period,
                "spent_nanodollars": balance.spent,
                "held_nanodollars": balance.held,
            }
            for each, balance in rows
        ]
        click.echo(msgspec.json.encode(shown[0] if one else shown))
        return
    for each, balance in rows:
        spent = f"spent {usd(balance.spent)} and held {usd(balance.held)}"
        click.echo(f"{each.account}  {spent} of {usd(each.budget)} USD per {each.per}")
