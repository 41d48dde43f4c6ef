"""`dutchdoor bill`: the sum of the ledger, to the nano-dollar."""

import asyncio
from pathlib import Path

import click
import msgspec

from dutchdoor.cli.options import data_folder, data_option, format_option
from dutchdoor.core import LedgerError
from dutchdoor.ledger.bill import Bill, as_csv, as_text, month_bounds
from dutchdoor.ledger.keys import now
from dutchdoor.ledger.store import Ledger


@click.command("bill")
@click.option("--month", metavar="YYYY-MM", help="Which month, UTC.  [default: this one]")
@data_option()
@format_option("text", "json", "csv")
def command(month: str | None, data: Path | None, format_: str) -> None:
    """Sum up what was used in a month.

    Requests belong to the month in which they were admitted, UTC. An unknown price stays unknown; interrupted
    requests are charged nothing and listed.

    Example: dutchdoor bill --month 2026-11 --format csv
    """
    wanted = month or now().strftime("%Y-%m")
    month_bounds(wanted)  # what is no month is said before anything is opened
    bill, names = asyncio.run(_read(data_folder(None, data), wanted))
    if format_ == "json":
        click.echo(msgspec.json.encode(bill))
    elif format_ == "csv":
        click.echo(as_csv(bill), nl=False)
    else:
        click.echo(as_text(bill, names), nl=False)


async def _read(folder: Path, month: str) -> tuple[Bill, dict[str, str]]:
    if not (folder / "ledger.sqlite3").exists():
        raise LedgerError(f"there is no ledger in {folder}", hint="name the data folder with --data DIR")
    async with await Ledger.open_in(folder) as ledger:
        return await ledger.bill(month), {key.id: key.name for key in await ledger.keys()}
