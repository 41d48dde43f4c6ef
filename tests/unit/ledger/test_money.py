"""Money is exact: no float ever enters a sum, and a request is rounded up once."""

import math
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dutchdoor.core import LedgerError
from dutchdoor.ledger.prices import Price, Tier, nanodollars, pico_dollars, usd, usd_per_million

rates = st.integers(0, 10**9)
tokens = st.integers(0, 10**6)
maybe = st.none() | rates
USES = ("input_audio", "output", "service_tier=priority", "web_search")


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """Any price: rates may fall with a tier, and reading or writing a cache may be dearer than input."""
    thresholds = sorted(draw(st.sets(st.integers(0, 1000), max_size=3)))
    card = {
        "input": rates,
        "output": rates,
        "cached_input": maybe,
        "cache_write": maybe,
        "cache_write_hour": maybe,
    }
    return Price(
        **{name: draw(rate) for name, rate in card.items()},
        tiers=tuple(
            Tier(above=above, **{name: draw(rate) for name, rate in card.items()}) for above in thresholds
        ),
        per_request=draw(st.integers(0, 10**7)),
        excludes=tuple(sorted(draw(st.sets(st.sampled_from(USES))))),
        source=draw(st.sampled_from(("stated", "manifest 1.0.0", "genai-prices 0.2.3 openai/gpt-5.5"))),
    )


@st.composite
def requests(draw: st.DrawFn, most: int = 1500) -> tuple[int, int, int, int, int]:
    """Input, output, and what of the input was read from a cache or written to one."""
    asked = draw(st.integers(0, most))
    cached = draw(st.integers(0, asked))
    written = draw(st.integers(0, asked - cached))
    hour = draw(st.integers(0, asked - cached - written))
    return asked, draw(st.integers(0, most)), cached, written, hour


def oracle(price: Price, asked: int, answered: int, cached: int, written: int, hour: int) -> Fraction:
    """Nano-dollars before rounding, token by token, in another way than the code's."""
    card = price
    for tier in price.tiers:
        if asked > tier.above:
            card = tier
    write = next(rate for rate in (card.cache_write, card.input) if rate is not None)
    kinds = [
        (asked - cached - written - hour, card.input),
        (cached, next(rate for rate in (card.cached_input, card.input) if rate is not None)),
        (written, write),
        (hour, next(rate for rate in (card.cache_write_hour, write) if rate is not None)),
        (answered, card.output),
    ]
    return sum((Fraction(count * rate, 1000) for count, rate in kinds), Fraction(price.per_request))


@given(prices(), requests())
def test_a_request_is_rounded_up_once(price: Price, request: tuple[int, ...]) -> None:
    assert price.cost(*request) == math.ceil(oracle(price, *request))


def test_rounding_each_part_would_be_found() -> None:  # the planted fault
    price, request = Price(input=1, output=1), (1, 1, 0, 0, 0)
    each = math.ceil(Fraction(1, 1000)) + math.ceil(Fraction(1, 1000))
    assert each != math.ceil(oracle(price, *request)) == price.cost(*request)


@given(prices(), requests(), st.integers(0, 500), st.integers(0, 500))
def test_nothing_within_the_bounds_costs_more_than_the_worst(
    price: Price, request: tuple[int, ...], more_input: int, more_output: int
) -> None:
    asked, answered, *_ = request
    assert price.cost(*request) <= price.worst(asked + more_input, answered + more_output)


@given(prices(), st.integers(0, 40), st.integers(0, 40))
def test_the_worst_is_what_some_request_comes_to(price: Price, asked: int, answered: int) -> None:
    dearest = max(
        price.cost(tokens, answered, *split)
        for tokens in range(asked + 1)
        for split in ((0, 0, 0), (tokens, 0, 0), (0, tokens, 0), (0, 0, tokens))
    )
    assert price.worst(asked, answered) == dearest


def test_the_cost_of_the_bounds_themselves_is_not_the_worst() -> None:  # the planted fault
    falling = Price(input=9, output=9, tiers=(Tier(above=1000, input=1, output=1),))
    assert falling.cost(1001, 1000) < falling.cost(1000, 1000) <= falling.worst(1001, 1000)
    written = Price(input=2, output=0, cache_write=3)
    assert written.cost(1000, 0) < written.cost(1000, 0, 0, 1000) == written.worst(1000, 0)


@given(prices(), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 5000), st.integers(0, 5000))
def test_parts_that_are_more_than_the_whole_are_charged_as_the_worst_of_it(
    price: Price, asked: int, answered: int, cached: int, written: int
) -> None:
    cost = price.cost(asked, answered, cached, written)
    assert cost <= price.worst(asked, answered)
    if cached + written > asked:
        split = ((0, 0, 0), (asked, 0, 0), (0, asked, 0), (0, 0, asked))
        assert cost == max(price.cost(asked, answered, *parts) for parts in split)


@given(rates, rates, st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5))
def test_a_whole_is_never_dearer_than_its_parts(input_, output, parts) -> None:
    price = Price(input=input_, output=output)
    whole = price.cost(sum(part[0] for part in parts), sum(part[1] for part in parts))
    assert 0 <= sum(price.cost(*part) for part in parts) - whole < len(parts)


@given(rates, rates, tokens, tokens, tokens, tokens)
def test_more_tokens_never_cost_less_without_tiers(
    input_, output, asked, answered, more_asked, more_answered
) -> None:
    price = Price(input=input_, output=output)
    assert price.cost(asked + more_asked, answered + more_answered) >= price.cost(asked, answered)


def test_a_tier_holds_for_all_tokens_and_not_at_its_threshold() -> None:
    price = Price.per_million("5", "30")
    tiered = msgspec.structs.replace(price, tiers=(Tier(above=272_000, input=10_000_000, output=45_000_000),))
    assert tiered.cost(272_000, 1) == price.cost(272_000, 1)
    assert tiered.cost(272_001, 1) == Price.per_million("10", "45").cost(272_001, 1)


@given(prices())
def test_a_price_survives_json(price: Price) -> None:
    assert msgspec.json.decode(msgspec.json.encode(price), type=Price) == price


@pytest.mark.parametrize(
    "stored",
    [
        b'{"input":-1,"output":1}',
        b'{"input":1,"output":1,"per_request":-1}',
        b'{"input":1,"output":1,"cached_input":-5}',
        b'{"input":9999999999999999999,"output":1}',
        b'{"input":1,"output":1,"tiers":[{"above":9,"input":1,"output":1},{"above":9,"input":1,"output":1}]}',
        b'{"input":1,"output":1,"tiers":[{"above":9,"input":1,"output":1},{"above":8,"input":1,"output":1}]}',
        b'{"input":1,"output":1,"tiers":[{"above":-1,"input":1,"output":1}]}',
    ],
)
def test_a_stored_price_that_is_none_is_refused(stored: bytes) -> None:
    with pytest.raises((LedgerError, msgspec.ValidationError)):
        msgspec.json.decode(stored, type=Price)


def test_a_fraction_of_a_pico_dollar_is_refused_where_it_is_stored() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"input":1.5,"output":1}', type=Price)


def test_the_rates_of_a_price_are_shown_as_they_were_written() -> None:
    assert Price.per_million("0.40", 1.2).usd_per_million() == {"input": 0.4, "output": 1.2}
    cached = Price.per_million("0.40", 1.2, cached_input="0.1")
    assert cached.usd_per_million() == {"input": 0.4, "output": 1.2, "cached_input": 0.1}


@given(st.integers(0, 10**15))
def test_a_price_survives_the_way_through_a_float_of_a_manifest(millionths) -> None:
    written = Decimal(millionths) / 10**6
    if Decimal(repr(float(written))) == written:
        assert pico_dollars(float(written)) == millionths
    assert pico_dollars(str(written)) == millionths


def test_a_tenth_of_a_dollar_is_exactly_a_tenth() -> None:
    assert Price.per_million(0.1, 0.3) == Price(input=100_000, output=300_000)
    assert Price.per_million("0.40", "1.20").cost(1_000_000, 1_000_000) == 1_600_000_000


@pytest.mark.parametrize(
    "price",
    [
        *(0.0000001, "0.0000005", -1, "nan", "inf", "cheap", "", 1e300, "1e-300"),
        "1.0000000000000000000000000000001",  # a product of decimals would be rounded to 28 digits, to 1
        Decimal("0.18000000000000002"),
        "1." + "0" * 100_000 + "1",
    ],
)
def test_a_price_that_cannot_be_kept_exactly_is_refused(price) -> None:
    with pytest.raises(LedgerError):
        pico_dollars(price)


@given(st.integers(0, 10**12), st.integers(1, 10**20), st.integers(7, 30))
@example(1, 1, 31)
def test_no_price_is_ever_rounded(whole, rest, places) -> None:
    written = f"{whole}.{rest:0{places}d}"
    try:
        kept = pico_dollars(written)
    except LedgerError:
        return
    assert Fraction(kept, 10**6) == Fraction(written)


@given(st.integers(0, 10**18))
def test_an_amount_is_shown_exactly(amount) -> None:
    assert nanodollars(usd(amount)) == amount
    assert pico_dollars(usd_per_million(amount)) == amount


@pytest.mark.parametrize("amount", ["0.0000000001", "-0.01", "one"])
def test_an_amount_finer_than_a_nano_dollar_is_refused(amount) -> None:
    with pytest.raises(LedgerError):
        nanodollars(amount)


@pytest.mark.parametrize("request_", [(-1, 0), (0, -1), (5, 0, -1), (5, 0, 6, -1), (5, 0, 0, 0, -1)])
def test_fewer_than_no_tokens_are_refused(request_) -> None:
    with pytest.raises(LedgerError):
        Price(input=1, output=1).cost(*request_)
