"""The price book charges what genai-prices would, to the nano-dollar, or says that it does not know."""

import datetime
import math
import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import genai_prices
import pytest
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
    Usage,
)

from dutchdoor.core import MissingExtraError
from dutchdoor.ledger import price_book
from dutchdoor.ledger.price_book import Listing, look_up
from dutchdoor.ledger.prices import Price

NOW = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)
PLAIN = {"input_mtok": Decimal("1"), "output_mtok": Decimal("2")}


def listing(prices: ModelPrice | list[ConditionalPrice], **more) -> Listing:
    """A model of a book with nothing else in it."""
    info = ModelInfo(id="m", match=ClauseEquals(equals="m"), prices=prices, **more)
    return Listing(provider="p", model="m", entries=price_book._entries(info, "test"))


def test_each_model_of_the_book_is_charged_as_the_book_charges_it() -> None:
    draw, compared = random.Random(4), 0
    for provider in price_book._book().providers:
        for model in provider.models:
            found = Listing(provider="", model="", entries=price_book._entries(model, ""))
            at = NOW + datetime.timedelta(minutes=draw.randint(-900_000, 900_000))
            if (price := found.at(at)) is None:
                continue
            edges = [tier.above + step for tier in price.tiers for step in (0, 1)]
            for asked in (draw.randint(0, 10**6), *edges):
                cached = draw.randint(0, asked)
                written = draw.randint(0, asked - cached)
                hour = draw.randint(0, asked - cached - written)
                answered = draw.randint(0, 10**5) if "output" not in price.excludes else 0
                usage = Usage(
                    input_tokens=asked,
                    output_tokens=answered,
                    cache_read_tokens=cached,
                    cache_write_tokens=written + hour,
                    cache_write_1h_tokens=hour,
                )
                exact = model.calc_price(usage, provider, genai_request_timestamp=at).total_price
                charged = price.cost(asked, answered, cached, written, hour)
                assert charged == math.ceil(Fraction(exact) * 10**9), (provider.id, model.id, usage)
                compared += 1
    assert compared > 1500


def price_of(where: str | None, model: str) -> Price | None:
    listing = look_up(where, model)
    return None if listing is None else listing.at(NOW)


def test_the_book_says_what_it_is() -> None:
    assert price_book.book() == f"genai-prices {genai_prices.__version__}"
    price = price_of("openai", "gpt-4o")
    assert price is not None and price.source == f"{price_book.book()} openai/gpt-4o"


@pytest.mark.parametrize(
    ("where", "model"),
    [
        ("https://api.openai.com/v1", "gpt-4o"),
        ("openai", "gpt-4o"),
        ("OpenAI", "GPT-4o"),
        (None, "gpt-4o"),
        ("https://api.openai.com:443/v1", "gpt-4o"),
        ("https://api.openai.com", "gpt-4o"),
        ("https://openrouter.ai/api/v1", "openai/gpt-4o"),
    ],
)
def test_a_provider_is_found_by_its_id_or_its_address(where: str | None, model: str) -> None:
    price = price_of(where, model)
    assert price is not None and (price.input, price.output) == (2_500_000, 10_000_000)


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.moonshot.ai/v1", "moonshotai"),
        ("https://router.huggingface.co/groq/v1", "huggingface_groq"),
        ("https://eu-aiplatform.googleapis.com/v1", "google"),
        ("https://me.openai.azure.com/openai/v1", "azure"),
        ("https://bedrock-runtime.us-east-1.amazonaws.com", "aws"),
    ],
)
def test_an_address_with_a_part_of_one_s_own_is_theirs(url: str, provider: str) -> None:
    patterns = {each.id: each.api_pattern for each in price_book._book().providers}
    assert price_book._is_theirs(url, patterns[provider])


@pytest.mark.parametrize(
    ("where", "model"),
    [
        ("https://api.example.org/v1", "gpt-4o"),
        ("http://127.0.0.1:9001/v1", "gpt-4o"),
        ("https://10.0.0.1/api.openai.com", "gpt-4o"),
        ("http://api.openai.com/v1", "gpt-4o"),
        ("https://localhost/v1", "gpt-4o"),
        ("https://api.openai.com.example.org/v1", "gpt-4o"),
        ("https://api.openai.com@example.org/v1", "gpt-4o"),
        ("openai", "no-such-model"),
        ("not-openai", "gpt-4o"),
        ("", "gpt-4o"),
        (None, "no-such-model"),
    ],
)
def test_what_the_book_does_not_list_is_unknown(where: str | None, model: str) -> None:
    assert look_up(where, model) is None


def test_a_model_that_is_listed_without_a_price_is_unknown_and_not_free() -> None:
    usage = Usage(input_tokens=1000, output_tokens=1000)
    taken = genai_prices.calc_price(usage, "gemma-3-27b-it", provider_id="google")
    assert taken.total_price == 0  # what the book itself would charge
    found = look_up("google", "gemma-3-27b-it")
    assert found is not None and found.at(NOW) is None
    assert found.entry(NOW).because == "the book lists it without a price"


def test_a_price_of_0_that_the_book_states_is_0() -> None:
    price = listing(ModelPrice(input_mtok=Decimal(0), output_mtok=Decimal(0))).at(NOW)
    assert price is not None and price.cost(10**6, 10**6) == 0


@pytest.mark.parametrize(
    ("prices", "because"),
    [
        ({**PLAIN, "cache_read_mtok": Decimal("0.18000000000000002")}, "no whole number of pico-dollars"),
        ({**PLAIN, "requests_kcount": Decimal("0.0000001")}, "no whole number of nano-dollars"),
        ({**PLAIN, "requests_kcount": TieredPrices(base=Decimal(1), tiers=[])}, "requests in tiers"),
        ({**PLAIN, "output_audio_mtok": Decimal("64")}, "output_audio_mtok apart"),
        ({**PLAIN, "output_reasoning_mtok": Decimal("3")}, "output_reasoning_mtok apart"),
        ({**PLAIN, "cache_write_5m_mtok": Decimal("3")}, "cache_write_5m_mtok apart"),
        ({**PLAIN, "input_smell_mtok": Decimal("3")}, "input_smell_mtok apart"),  # of a newer book
        ({"audio_hours": Decimal("0.3")}, "no price a token of input"),
        ({}, "without a price"),
    ],
)
def test_a_price_that_a_request_cannot_be_held_to_is_unknown(prices: dict, because: str) -> None:
    entry = listing(ModelPrice(**prices)).entry(NOW)
    assert entry.price is None and because in (entry.because or "")


@pytest.mark.parametrize(
    ("prices", "use"),
    [
        ({**PLAIN, "input_audio_mtok": Decimal("32")}, "input_audio"),
        ({**PLAIN, "cache_audio_read_mtok": Decimal("1")}, "input_audio"),
        ({**PLAIN, "input_image_mtok": Decimal("5")}, "input_image"),
        ({**PLAIN, "web_searches_kcount": Decimal("10")}, "web_search"),
        ({**PLAIN, "storage_searches_kcount": Decimal("2.5")}, "file_search"),
        ({**PLAIN, "audio_hours": Decimal("2.5")}, "audio_hours"),
        ({"input_mtok": Decimal("1")}, "output"),  # an embedding
    ],
)
def test_a_use_that_is_priced_apart_is_excluded(prices: dict, use: str) -> None:
    price = listing(ModelPrice(**prices)).at(NOW)
    assert price is not None and price.excludes == (use,)


def test_a_service_tier_with_a_price_of_its_own_is_excluded_and_batches_are_none_of_ours() -> None:
    variants = [
        PriceVariant(when={"service_tier": "priority"}, prices=ModelPrice(input_mtok=Decimal(9))),
        PriceVariant(when={"service_tier": "default"}, prices=ModelPrice()),  # the same as without
        PriceVariant(when={"processing": "batch"}, prices=ModelPrice(input_mtok=Decimal(1))),
    ]
    price = listing(ModelPrice(**PLAIN), price_variants=variants).at(NOW)
    assert price is not None and price.excludes == ("service_tier=priority",)


def test_rates_with_different_tiers_become_cards() -> None:
    price = listing(
        ModelPrice(
            input_mtok=TieredPrices(base=Decimal(1), tiers=[Tier(start=100, price=Decimal(3))]),
            output_mtok=TieredPrices(base=Decimal(2), tiers=[Tier(start=101, price=Decimal(4))]),
            requests_kcount=Decimal(5),
        )
    ).at(NOW)
    assert price is not None and price.per_request == 5_000_000
    cards = [(tier.above, tier.input, tier.output) for tier in price.tiers]
    assert cards == [(100, 3_000_000, 2_000_000), (101, 3_000_000, 4_000_000)]


def test_a_price_holds_from_its_day_on_and_at_its_time_of_the_day() -> None:
    def inputs(usd: int) -> ModelPrice:
        return ModelPrice(input_mtok=Decimal(usd), output_mtok=Decimal(0))

    found = listing(
        [
            ConditionalPrice(prices=inputs(1)),
            ConditionalPrice(StartDateConstraint(datetime.date(2026, 11, 24)), prices=inputs(2)),
            ConditionalPrice(
                TimeOfDateConstraint(
                    datetime.time(22, tzinfo=datetime.UTC), datetime.time(2, tzinfo=datetime.UTC)
                ),
                prices=inputs(3),
            ),
        ]
    )

    def at(text: str) -> int:
        price = found.at(datetime.datetime.fromisoformat(text))
        assert price is not None
        return price.input // 10**6

    assert at("2026-11-23T21:59:59Z") == 1
    assert at("2026-11-23T22:00:00Z") == at("2026-11-24T01:59:59Z") == 3
    assert at("2026-11-24T02:00:00Z") == at("2026-11-24T22:59:59+01:00") == 2
    assert at("2026-11-24T23:00:00+01:00") == 3


def test_an_old_rate_that_is_unknown_does_not_hide_the_present_one() -> None:
    found = listing(
        [
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal("0.00000001"), output_mtok=Decimal(1))),
            ConditionalPrice(StartDateConstraint(datetime.date(2026, 1, 1)), prices=ModelPrice(**PLAIN)),
        ]
    )
    assert found.at(NOW) is not None
    assert found.at(datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)) is None


def test_a_condition_of_a_newer_book_is_unknown() -> None:
    assert listing([ConditionalPrice("full moon", prices=ModelPrice(**PLAIN))]).at(NOW) is None  # type: ignore[arg-type]


def test_without_the_extra_it_is_said_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    price_book._book.cache_clear()
    with pytest.raises(MissingExtraError) as caught:
        look_up("https://api.openai.com/v1", "gpt-4o")
    assert "dutchdoor[prices]" in (caught.value.hint or "")
    assert look_up("http://127.0.0.1:9001/v1", "small") is None  # which never needs it
    price_book._book.cache_clear()


def test_the_book_is_imported_only_when_it_is_asked_and_never_asks_the_network() -> None:
    code = """
import socket, sys, threading
def refuse(*_, **__): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import datetime, dutchdoor.ledger
from dutchdoor.ledger.price_book import look_up
now = datetime.datetime.now(datetime.UTC)
assert look_up("http://127.0.0.1:1/v1", "gpt-4o") is None
assert "genai_prices" not in sys.modules and "pydantic" not in sys.modules
assert look_up("openai", "gpt-4o").at(now)
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
