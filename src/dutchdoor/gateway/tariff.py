"""What a target charges for one request: a stated price, or what the price book says at this moment for what is
asked. Null is unknown, never 0.
"""

import datetime

import msgspec

from dutchdoor.gateway.call import Call
from dutchdoor.gateway.dialects.reading import searchable
from dutchdoor.ledger.price_book import Listing
from dutchdoor.ledger.prices import Price

Tariff = Price | Listing | None

# how a request shows that it uses what some prices do not cover; any of these in its body counts
MARKS = {
    "input_image": (b'"image_url"', b'"input_image"'),
    "input_audio": (b'"input_audio"', b'"audio_url"'),
    "input_video": (b'"video_url"', b'"input_video"'),
    "web_search": (b"web_search",),
    "file_search": (b"file_search",),
}


def price_for(tariff: Tariff, call: Call) -> Price | None:
    """The price of a request that is admitted now; null where it is unknown what it would come to."""
    price = price_now(tariff)
    if price is None or not price.excludes:
        return price
    return None if any(_uses(name, call) for name in price.excludes) else price


def price_now(tariff: Tariff) -> Price | None:
    """The price of this moment."""
    return tariff.at(datetime.datetime.now(datetime.UTC)) if isinstance(tariff, Listing) else tariff


def _uses(name: str, call: Call) -> bool:
    if name == "output":
        return call.asked.operation != "embeddings"
    if name in MARKS:
        return any(mark in call.shown for mark in MARKS[name])
    field, equals, value = name.partition("=")
    if not equals:
        return True  # what cannot be told from a request may be in it
    raw = call.fields.get(field)
    return raw is not None and searchable(bytes(raw)) == msgspec.json.encode(value).lower()
