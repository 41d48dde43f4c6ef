"""What a thousand such requests cost."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.core import UsageError
from dutchdoor.drill.cost import cost, parse_price, price
from dutchdoor.drill.report import Price, Reply

tokens = st.integers(0, 10**6)


def used(input_tokens: int | None, output_tokens: int | None) -> Reply:
    return Reply(text="x", input_tokens=input_tokens, output_tokens=output_tokens)


def test_a_thousand_requests_cost_what_they_cost() -> None:
    known = price("0.40", "1.20", "family")
    found = cost([used(100, 50)], known)
    assert found is not None
    assert found.per_thousand_nano_usd == 100_000_000  # (100 × 0.40 + 50 × 1.20) / 10⁶ × 1,000 = 0.10 USD


def test_an_unknown_price_or_usage_is_unknown_and_never_nothing() -> None:
    known = price(1, 1, "option")
    assert cost([used(1, 1)], None) is None
    assert cost([used(1, None)], known) is None
    assert cost([used(None, 1), used(1, 1)], known) is None
    assert cost([Reply(text=None, error="down")], known) is None


def test_a_price_of_zero_is_known_and_costs_nothing() -> None:
    found = cost([used(5, 5)], price(0, 0, "option"))
    assert found is not None
    assert found.per_thousand_nano_usd == 0


@given(
    st.lists(st.tuples(tokens, tokens), min_size=1, max_size=30), st.integers(0, 10**9), st.integers(0, 10**9)
)
def test_the_sum_is_never_below_the_exact_one_and_above_it_by_less_than_a_nano_dollar_a_request(
    counts: list[tuple[int, int]], input_pico: int, output_pico: int
) -> None:
    known = Price(input_pico_usd=input_pico, output_pico_usd=output_pico, source="option")
    found = cost([used(i, o) for i, o in counts], known)
    exact = Fraction(sum(i * input_pico + o * output_pico for i, o in counts), 1_000) * 1_000 / len(counts)
    assert found is not None
    assert exact <= found.per_thousand_nano_usd < exact + 1_000 + 1


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2", "nan,1", "1e400,1", "0.1234567,1"])
def test_a_price_that_is_none_is_refused_by_the_option_it_came_from(text: str) -> None:
    with pytest.raises(UsageError, match="--price-a"):
        parse_price("--price-a", text)


def test_a_price_is_read_exactly() -> None:
    read = parse_price("--price-b", " 0.1, 0.3 ")
    assert (read.input_pico_usd, read.output_pico_usd, read.source) == (100_000, 300_000, "option")
