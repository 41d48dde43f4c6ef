"""`dutchdoor prices`: what a model of a third party would be charged, and by which version of the book."""

import datetime
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from dutchdoor.cli.options import format_option
from dutchdoor.core import Exit, UsageError
from dutchdoor.ledger import price_book
from dutchdoor.ledger.bill import columns
from dutchdoor.ledger.events import instant
from dutchdoor.ledger.keys import now
from dutchdoor.ledger.price_book import Entry, Listing
from dutchdoor.ledger.prices import Card, Price, usd, usd_per_million

RATES = ("input", "cached_input", "cache_write", "cache_write_hour", "output")


@click.command("prices")
@click.argument("model")
@click.option("--provider", metavar="ID", help="Whose model it is, as genai-prices calls them: openai.")
@click.option("--url", help="The address of the target, instead of --provider.")
@click.option("--at", metavar="TIME", help="A moment, RFC 3339.  [default: now]")
@format_option()
def command(model: str, provider: str | None, url: str | None, at: str | None, format_: str) -> int:
    """Show what a third party's model would be charged, offline.

    Read from the installed genai-prices. What it does not know, or knows only as a fraction of a pico-dollar,
    is unknown, never 0: then the exit code is 3, and a price in routes.yaml is what helps.

    Example: dutchdoor prices gpt-5.5 --url https://api.openai.com/v1
    """
    if provider and url:
        raise UsageError("--provider and --url say the same thing twice", hint="give one of them")
    moment = datetime.datetime.fromisoformat(instant(at)) if at else now()
    if provider and provider.lower() not in price_book.providers():
        known = ", ".join(sorted(price_book.providers()))
        raise UsageError(f"{provider!r} is no provider in {price_book.book()}", hint=f"one of {known}")
    listing = price_book.look_up(provider or url, model)
    entry = Entry(because="the book does not list it") if listing is None else listing.entry(moment)
    if format_ == "json":
        click.echo(msgspec.json.encode(_json(model, listing, entry, moment)))
    else:
        click.echo("\n".join(_text(model, listing, entry)))
    return Exit.CLEAN if entry.price is not None else Exit.INCONCLUSIVE


def _json(model: str, listing: Listing | None, entry: Entry, moment: datetime.datetime) -> dict[str, Any]:
    """`price` in pico-dollars a token; `entries` only where the price depends on the time."""
    row: dict[str, Any] = {
        "asked": model,
        "book": price_book.book(),
        "provider": listing and listing.provider,
        "model": listing and listing.model,
        "at": moment,
        "price": entry.price and _full(entry.price),
        "because": entry.because,
    }
    if listing is not None and len(listing.entries) > 1:
        row["entries"] = listing.entries
    return row


def _full(price: Price) -> dict[str, Any]:
    """A price with the fields that its stored form leaves out where they say nothing."""
    return {**_fields(price), "tiers": [_fields(tier) for tier in price.tiers]}


def _fields(card: Card) -> dict[str, Any]:
    return {name: getattr(card, name) for name in card.__struct_fields__}


def _text(model: str, listing: Listing | None, entry: Entry) -> Iterator[str]:
    found = model if listing is None else f"{listing.model} at {listing.provider}"
    yield f"{found}, from {price_book.book()}"
    if entry.price is None:
        yield f"unknown: {entry.because}"
        return
    yield from columns(_table(entry.price), left=1)
    if entry.price.per_request:
        yield f"and {usd(entry.price.per_request)} USD a request"
    if entry.price.excludes:
        yield f"unknown for requests with: {', '.join(entry.price.excludes)}"
    assert listing is not None
    if len(listing.entries) > 1:
        yield "the price depends on the time; of those that hold, the last counts:"
        yield from (f"  {_when(each)}: {_summary(each)}" for each in listing.entries)


def _table(price: Price) -> list[tuple[str, ...]]:
    cards: list[tuple[str, Card]] = [("any input" if not price.tiers else "short input", price)]
    cards += [(f"all, above {tier.above:,} tokens of input", tier) for tier in price.tiers]
    shown = [name for name in RATES if any(getattr(card, name) is not None for _, card in cards)]
    rows = [("USD per million tokens", *(name.replace("_", " ") for name in shown))]
    for title, card in cards:
        rates = (getattr(card, name) for name in shown)
        rows.append((title, *("–" if rate is None else usd_per_million(rate) for rate in rates)))
    return rows


def _when(entry: Entry) -> str:
    if entry.since is not None:
        return f"from {entry.since}"
    if entry.daily is not None:
        return f"daily {entry.daily.start:%H:%M} to {entry.daily.until:%H:%M} UTC"
    return "else"


def _summary(entry: Entry) -> str:
    if entry.price is None:
        return f"unknown, {entry.because}"
    return f"{usd_per_million(entry.price.input)} in, {usd_per_million(entry.price.output)} out"
