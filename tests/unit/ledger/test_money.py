"""Money is exact: no float ever enters a sum, and a request is rounded up once."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.core import LedgerError
from dutchdoor.ledger.prices import Price, nanodollars, pico_dollars, usd

prices = st.integers(0, 10**9)
tokens = st.integers(0, 10**7)


@given(prices, prices, tokens, tokens)
def test_a_request_is_rounded_up_once(input_, output, asked, answered) -> None:
    exact = Fraction(asked * input_ + answered * output, 1000)
    cost = Price(input=input_, output=output).cost(asked, answered)
    assert exact <= cost < exact + 1


@given(prices, prices, st.lists(st.tuples(tokens, tokens), min_size=1, max_size=5))
def test_a_whole_is_never_dearer_than_its_parts(input_, output, parts) -> None:
    price = Price(input=input_, output=output)
    whole = price.cost(sum(part[0] for part in parts), sum(part[1] for part in parts))
    assert 0 <= sum(price.cost(*part) for part in parts) - whole < len(parts)


@given(prices, prices, tokens, tokens, tokens, tokens)
def test_more_tokens_never_cost_less(input_, output, asked, answered, more_asked, more_answered) -> None:
    price = Price(input=input_, output=output)
    assert price.cost(asked + more_asked, answered + more_answered) >= price.cost(asked, answered)


@given(st.integers(0, 10**15))
def test_a_price_survives_the_way_through_a_float_of_a_manifest(millionths) -> None:
    written = Decimal(millionths) / 10**6
    if Decimal(repr(float(written))) == written:
        assert pico_dollars(float(written)) == millionths
    assert pico_dollars(str(written)) == millionths


def test_a_tenth_of_a_dollar_is_exactly_a_tenth() -> None:
    assert Price.per_million(0.1, 0.3) == Price(input=100_000, output=300_000)
    assert Price.per_million("0.40", "1.20").cost(1_000_000, 1_000_000) == 1_600_000_000


@pytest.mark.parametrize("price", [0.0000001, "0.0000005", -1, "nan", "inf", "cheap", "", 1e300, "1e-300"])
def test_a_price_that_cannot_be_kept_exactly_is_refused(price) -> None:
    with pytest.raises(LedgerError):
        pico_dollars(price)


@given(st.integers(0, 10**18))
def test_an_amount_is_shown_exactly(amount) -> None:
    assert nanodollars(usd(amount)) == amount


@pytest.mark.parametrize("amount", ["0.0000000001", "-0.01", "one"])
def test_an_amount_finer_than_a_nano_dollar_is_refused(amount) -> None:
    with pytest.raises(LedgerError):
        nanodollars(amount)


def test_fewer_than_no_tokens_are_refused() -> None:
    with pytest.raises(LedgerError):
        Price(input=1, output=1).cost(-1, 0)
