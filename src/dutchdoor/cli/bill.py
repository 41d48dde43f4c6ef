"""`dutchdoor bill`: the sum of the ledger, to the nano-dollar."""

from pathlib import Path
from typing import get_args

import click
import msgspec

from dutchdoor.cli.books import books_options, read_books
from dutchdoor.cli.options import format_option
from dutchdoor.core import LedgerError
from dutchdoor.ledger.bill import Bill, By, as_csv, as_text, month_bounds, read_bill
from dutchdoor.ledger.keys import Key, now
from dutchdoor.ledger.store import Ledger


@click.command("bill")
@click.option("--month", metavar="YYYY-MM", help="Which month, UTC.  [default: this one]")
@click.option("--key", metavar="KEY", help="Of this key only: its id, prefix or name.")
@click.option("--team", help="Of this team's keys only.")
@click.option("--by", type=click.Choice(get_args(By)), help="Break it down by this instead.")
@books_options()
@format_option("text", "json", "csv")
def command(
    month: str | None,
    key: str | None,
    team: str | None,
    by: By | None,
    data: Path | None,
    ledger_url: str | None,
    format_: str,
) -> None:
    """Sum up what was used in a month.

    Requests belong to the month in which they were admitted, UTC. An unknown price stays unknown; interrupted
    requests are charged nothing and listed.

    Example: dutchdoor bill --month 2026-11 --format csv
    """
    wanted = month or now().strftime("%Y-%m")
    month_bounds(wanted)  # what is no month is said before anything is opened

    async def read(ledger: Ledger) -> tuple[Bill, dict[str, str]]:
        keys = await ledger.keys()
        one = None if key is None else _named(keys, key)
        bill = await ledger.read(lambda db: read_bill(db, wanted, key=one, team=team, by=by))
        return bill, {each.id: each.name for each in keys}

    bill, names = read_books(data, ledger_url, read)
    if format_ == "json":
        click.echo(msgspec.json.encode(bill))
    elif format_ == "csv":
        click.echo(as_csv(bill), nl=False)
    else:
        click.echo(as_text(bill, names), nl=False)


def _named(keys: list[Key], wanted: str) -> str:
    """The id of the one key that is called so, revoked or not: it had its usage."""
    found = [each.id for each in keys if wanted in (each.id, each.prefix, each.name)]
    if not found:  # a bill of nobody would look like one of nothing
        raise LedgerError(f"there is no key {wanted!r}", hint="dutchdoor keys list")
    if len(found) > 1:
        raise LedgerError(f"{len(found)} keys are called {wanted!r}", hint="name the key by its id")
    return found[0]
