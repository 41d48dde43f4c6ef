"""The price book of third parties: what genai-prices knows of a model at a provider, as our exact prices.

Offline: only what was installed is read, and nothing is ever fetched. Refuses to guess: a rate that is no
whole number of pico-dollars, a model that is listed without a price, and a price that a request's usage
cannot be held to are unknown, and unknown is never 0. The rules: docs/adr/052-prices.md.
"""

import datetime
import functools
import ipaddress
import itertools
import re
import urllib.parse
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from dutchdoor.core import LedgerError, MissingExtraError
from dutchdoor.ledger.prices import Card, Price, Tier, nanodollars, pico_dollars

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

    Rate = Decimal | TieredPrices

RATES = {  # the book's name of a rate a million tokens → ours
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_hour",
}
SEARCHES = {"web_searches_kcount": "web_search", "storage_searches_kcount": "file_search"}
BATCH = "processing"  # variants of batch interfaces, which no request of ours reaches


class Daily(msgspec.Struct, frozen=True, kw_only=True):
    """A time of each day, UTC; it runs over midnight where `until` is not after `start`."""

    start: datetime.time
    until: datetime.time

    def holds(self, time: datetime.time) -> bool:
        if self.until < self.start:
            return time >= self.start or time < self.until
        return self.start <= time < self.until


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A price and when it holds: from a day on (UTC), at a time of the day, or always.

    `price` null: unknown, and `because` says why.
    """

    since: datetime.date | None = None
    daily: Daily | None = None
    price: Price | None = None
    because: str | None = None

    def holds(self, moment: datetime.datetime) -> bool:
        """Whether this is a price of the moment, which is aware."""
        utc = moment.astimezone(datetime.UTC)
        if self.since is not None and utc.date() < self.since:
            return False
        return self.daily is None or self.daily.holds(utc.time())


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the book; of the entries that hold at a moment the last counts, and the first if none does."""

    provider: str
    model: str  # as the book calls it
    entries: tuple[Entry, ...]

    def entry(self, moment: datetime.datetime) -> Entry:
        """The entry of a moment: the one in which the request is admitted."""
        if len(self.entries) == 1:  # which has no condition, or is the first where none holds
            return self.entries[0]
        return next((entry for entry in reversed(self.entries) if entry.holds(moment)), self.entries[0])

    def at(self, moment: datetime.datetime) -> Price | None:
        """The price of a moment, or null where it is unknown."""
        return self.entry(moment).price


def look_up(provider_or_url: str | None, model: str) -> Listing | None:
    """The listing of a model at a provider, or null where the book has none.

    `provider_or_url` is a provider's id in the book (`openai`), the URL of a target, or null: then the
    provider is the one that the book takes the model's name for. Raises MissingExtraError where
    genai-prices is not installed; an address that no provider can have never needs it.
    """
    provider = url = None
    if provider_or_url is not None and "://" in provider_or_url:
        url = provider_or_url
        if not _is_public(url):
            return None
    elif provider_or_url is not None:
        provider = provider_or_url.lower()
        if provider not in providers():  # the book would also take `not-openai` for openai
            return None
    try:
        found, info = _book().find_provider_model(model, None, provider, url)
    except LookupError:
        return None
    if url is not None and not _is_theirs(url, found.api_pattern):
        return None
    return Listing(provider=found.id, model=info.id, entries=_entries(info, f"{book()} {found.id}/{info.id}"))


def book() -> str:
    """The book and its version: `genai-prices 0.2.3`."""
    _book()
    return f"genai-prices {version('genai-prices')}"


def providers() -> frozenset[str]:
    """The ids of the providers in the book."""
    return frozenset(provider.id for provider in _book().providers)


def _is_public(url: str) -> bool:
    """Whether a provider could have this address: over HTTPS, at a name in the public tree."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" or "." not in host or host.endswith(".localhost"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _is_theirs(url: str, pattern: str) -> bool:
    """Whether a provider's pattern is the whole host and not only how it begins: `api.openai.com.example.org`
    is none of OpenAI's. A pattern may leave the last label open.
    """
    match = re.match(pattern, url)
    if match is None:
        return False
    if "/" in url[len("https://") : match.end()]:  # the host is matched, and some of the path
        return True
    return "." not in url[match.end() :].partition("/")[0]


@functools.cache
def _book() -> "DataSnapshot":
    """What was installed: not the snapshot that another part of the process may have had updated."""
    try:
        from genai_prices.data import providers
        from genai_prices.data_snapshot import DataSnapshot
    except ImportError as error:
        raise MissingExtraError("the prices of third parties", extra="prices") from error
    return DataSnapshot(providers=providers, from_auto_update=False)


def _entries(info: "ModelInfo", source: str) -> tuple[Entry, ...]:
    from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    excludes = _variants(info)
    if isinstance(info.prices, ModelPrice):
        return (_entry(info.prices, source, excludes),)
    entries = []
    for each in info.prices:
        entry = _entry(each.prices, source, excludes)
        match each.constraint:
            case None:
                pass
            case StartDateConstraint(start_date=day):
                entry = msgspec.structs.replace(entry, since=day)
            case TimeOfDateConstraint(start_time=start, end_time=until):
                entry = msgspec.structs.replace(entry, daily=Daily(start=_utc(start), until=_utc(until)))
            case _:  # a newer book may have conditions that we do not know
                entry = Entry(because="the book has a condition that is not known here")
        entries.append(entry)
    return tuple(entries) or (Entry(because="the book lists it without a price"),)


def _utc(time: datetime.time) -> datetime.time:
    if time.tzinfo is None:
        return time
    day = datetime.datetime.combine(datetime.date(1970, 1, 2), time)
    return day.astimezone(datetime.UTC).time()


def _variants(info: "ModelInfo") -> set[str]:
    """What a request can ask for that changes the price: `service_tier=priority`."""
    return {
        f"{name}={value}"
        for variant in info.price_variants or ()
        if BATCH not in variant.when and _stated(variant.prices)
        for name, value in variant.when.items()
    }


def _stated(prices: "ModelPrice") -> "dict[str, Rate]":
    return {name: rate for name, rate in vars(prices).items() if rate is not None}


def _entry(prices: "ModelPrice", source: str, excludes: set[str]) -> Entry:
    try:
        return Entry(price=_price(_stated(prices), source, excludes))
    except LedgerError as error:
        return Entry(because=error.message)


def _price(stated: "dict[str, Rate]", source: str, variants: set[str]) -> Price:
    """Our price of the book's rates; raises LedgerError where it cannot be said exactly."""
    if not stated:
        raise LedgerError("the book lists it without a price")  # genai-prices itself would charge 0
    if "input_mtok" not in stated:
        raise LedgerError("the book has no price a token of input")
    excludes = set(variants)
    for name in stated:
        if name not in RATES and name != "requests_kcount":
            excludes.add(_use(name))
    if "output_mtok" not in stated:
        excludes.add("output")  # an embedding has none; what another model writes is not free
    rates = {ours: stated[name] for name, ours in RATES.items() if name in stated}
    base = _card(rates, 0)
    return Price(
        **msgspec.structs.asdict(base),
        tiers=tuple(
            Tier(**msgspec.structs.asdict(_card(rates, above + 1)), above=above)
            for above in _thresholds(rates)
        ),
        per_request=_per_request(stated.get("requests_kcount")),
        excludes=tuple(sorted(excludes)),
        source=source,
    )


def _use(name: str) -> str:
    """The use that a rate of the book is for, apart from plain tokens.

    What goes in is seen in the request, so it can be excluded. What comes out is not, so a model whose
    output has several rates has no price of ours.
    """
    if name in SEARCHES:
        return SEARCHES[name]
    dimensions = _dimensions().get(name, {})
    modality = dimensions.get("modality", "text")
    if dimensions and dimensions.get("family") != "tokens":
        return name
    if dimensions.get("direction") != "input" or modality == "text":
        raise LedgerError(f"the book prices {name} apart, which a request cannot be held to")
    return f"input_{modality}"


@functools.cache
def _dimensions() -> dict[str, dict[str, str]]:
    """What each rate of the book is for, by its name."""
    from genai_prices.data_units import unit_data

    return {unit.get("price_key", name): unit.get("dimensions", {}) for name, unit in unit_data.items()}


def _thresholds(rates: "dict[str, Rate]") -> list[int]:
    tiered = (getattr(rate, "tiers", ()) for rate in rates.values())
    return sorted({tier.start for tier in itertools.chain(*tiered)})


def _card(rates: "dict[str, Rate]", input_tokens: int) -> Card:
    """The rates of a request with so much input: of each, the last tier that it exceeds."""
    picked = {name: pico_dollars(_at(rate, input_tokens)) for name, rate in rates.items()}
    return Card(**{"output": 0, **picked})


def _at(rate: "Rate", input_tokens: int) -> "Decimal":
    from genai_prices.types import TieredPrices

    if not isinstance(rate, TieredPrices):
        return rate
    exceeded = [tier.price for tier in rate.tiers if input_tokens > tier.start]
    return exceeded[-1] if exceeded else rate.base


def _per_request(per_thousand: "Rate | None") -> int:
    """Nano-dollars a request of USD per thousand requests."""
    from genai_prices.types import TieredPrices

    if per_thousand is None:
        return 0
    if isinstance(per_thousand, TieredPrices):
        raise LedgerError("the book prices requests in tiers")
    amount, rest = divmod(nanodollars(per_thousand), 1000)
    if rest:
        raise LedgerError(f"{per_thousand} USD per 1000 requests is no whole number of nano-dollars")
    return amount
