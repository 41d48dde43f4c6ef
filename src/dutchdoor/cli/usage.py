"""`dutchdoor usage`: what was used, for those who bill elsewhere."""

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import msgspec

from dutchdoor.cli.books import books_options, read_books
from dutchdoor.core import DutchdoorError, UsageError
from dutchdoor.ledger.bill import month_bounds
from dutchdoor.ledger.events import END_OF_TIME, Event, Place, instant, place_after, read_page, resume_from
from dutchdoor.ledger.ingest import Ingest
from dutchdoor.ledger.keys import now
from dutchdoor.ledger.store import Ledger

TOKEN = "DUTCHDOOR_EVENTS_TOKEN"  # noqa: S105 - the name of a variable
Deliver = Callable[[tuple[Event, ...]], Awaitable[None]]


@click.group("usage")
def command() -> None:
    """Export what was used as CloudEvents.

    Example: dutchdoor usage export --month 2026-11 > usage.jsonl
    """


@command.command("export")
@click.option("--since", metavar="TIME", help="Admitted from then on, RFC 3339.  [default: the beginning]")
@click.option("--until", metavar="TIME", help="Admitted before then.  [default: now]")
@click.option("--month", metavar="YYYY-MM", help="A month, UTC, instead of --since and --until.")
@click.option("--to", metavar="URL", help=f"Post it there in batches; the token is read from {TOKEN}.")
@books_options()
def export(
    since: str | None,
    until: str | None,
    month: str | None,
    to: str | None,
    data: Path | None,
    ledger_url: str | None,
) -> None:
    """Write what was used as CloudEvents 1.0, one a request, as JSON lines or to a URL.

    Each event's id is that of its request, so that what is sent twice counts once. At the end it says with
    which --since to go on: nothing is missed then, and some may come again.

    Example: dutchdoor usage export --since 2026-11-01 --to https://openmeter.cloud/api/v1/events
    """
    if month and (since or until):
        raise UsageError("--month is a span of time already", hint="leave out --since and --until")
    if month:
        since, until = (bound.removesuffix("T") for bound in month_bounds(month))
    begin, end = instant(since) if since else "", instant(until) if until else END_OF_TIME
    ingest = None if to is None else Ingest(to, os.environ.get(TOKEN))

    async def work(ledger: Ledger) -> tuple[int, str]:
        if ingest is None:
            return await _walk(ledger, begin, end, _write)
        async with ingest:
            return await _walk(ledger, begin, end, ingest.send)

    sent, resume = read_books(data, ledger_url, work)
    click.echo(f"{sent} events; go on with --since {resume}", err=to is None)


async def _walk(ledger: Ledger, since: str, until: str, deliver: Deliver) -> tuple[int, str]:
    """Deliver page by page; the number of events, and where to go on.

    A page is read in a snapshot of its own, so that no long transaction holds the ledger's log; what is
    booked meanwhile behind us is why the place to go on is asked for first.
    """
    moment = now()
    resume = min(await ledger.read(lambda db: resume_from(db, moment)), until)
    place, sent = Place(time=since), 0
    while page := await ledger.read(lambda db, place=place: read_page(db, place, until)):  # type: ignore[misc]
        try:
            await deliver(page)
        except DutchdoorError as error:
            left = max(since, min(resume, page[0].time))
            error.hint = f"{sent} events were taken; go on with --since {left}"
            raise
        sent, place = sent + len(page), place_after(page[-1])
    return sent, max(since, resume)


async def _write(page: tuple[Event, ...]) -> None:
    encoder = msgspec.json.Encoder()
    sys.stdout.buffer.write(encoder.encode_lines(page))
    sys.stdout.buffer.flush()
