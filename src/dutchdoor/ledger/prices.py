"""Money: prices in integer pico-dollars a token, amounts in integer nano-dollars.

A request is rounded up once, after its tokens are summed. Floats never enter a sum: a price written as a
decimal is converted exactly or refused.
"""

from decimal import Decimal, InvalidOperation

import msgspec

from dutchdoor.core import LedgerError

PICO_PER_TOKEN = 1_000_000  # 1 USD per million tokens is 10⁻⁶ USD a token, which is 10⁶ pico-dollars a token
PICO_PER_NANO = 1_000
NANO_PER_USD = 1_000_000_000
LARGEST = 1 << 62  # what an INTEGER column holds, with room for sums


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Pico-dollars a token, integers."""

    input: int
    output: int

    @classmethod
    def per_million(cls, input: float | str | Decimal, output: float | str | Decimal) -> "Price":
        """From USD per million tokens; raises LedgerError where that is no whole number of pico-dollars a
        token.
        """
        return cls(input=pico_dollars(input), output=pico_dollars(output))

    def usd_per_million(self) -> dict[str, float]:
        """`{"input", "output"}` in USD per million tokens, as it was written."""
        return {"input": self.input / PICO_PER_TOKEN, "output": self.output / PICO_PER_TOKEN}

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """Nano-dollars of one request, rounded up once."""
        if input_tokens < 0 or output_tokens < 0:
            raise LedgerError("a request cannot have fewer than 0 tokens")
        return -(-(input_tokens * self.input + output_tokens * self.output) // PICO_PER_NANO)


def pico_dollars(usd_per_million: float | str | Decimal) -> int:
    """Pico-dollars a token of a price in USD per million tokens, exactly; a float means its shortest
    decimal form.
    """
    amount = _decimal(usd_per_million) * PICO_PER_TOKEN
    if amount != amount.to_integral_value():
        raise LedgerError(
            f"the price {usd_per_million} USD per million tokens is no whole number of pico-dollars a token",
            hint="use at most 6 digits after the point",
        )
    return _bounded(int(amount), usd_per_million)


def nanodollars(usd: float | str | Decimal) -> int:
    """Nano-dollars of an amount in USD, exactly; raises LedgerError where it has more than 9 digits after
    the point.
    """
    amount = _decimal(usd) * NANO_PER_USD
    if amount != amount.to_integral_value():
        raise LedgerError(
            f"{usd} USD is no whole number of nano-dollars", hint="use at most 9 digits after the point"
        )
    return _bounded(int(amount), usd)


def usd(nanodollars: int) -> str:
    """An amount as a person reads it: exact, without trailing zeros, at least two digits after the point."""
    whole, rest = divmod(abs(nanodollars), NANO_PER_USD)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanodollars < 0 else ''}{whole}.{digits}"


def _decimal(value: float | str | Decimal) -> Decimal:
    try:
        amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except (InvalidOperation, ValueError) as error:
        raise LedgerError(
            f"{value!r} is no amount of money", hint="write a decimal number such as 0.40"
        ) from error
    if not amount.is_finite() or amount < 0:
        raise LedgerError(f"{value} is no amount of money", hint="amounts are finite and not below 0")
    if amount.adjusted() > 12:  # before any exact product could grow without bound
        raise LedgerError(f"{value} is too large an amount", hint="amounts stay below 1e12 USD")
    if amount and amount.adjusted() < -12:
        raise LedgerError(f"{value} is too small an amount", hint="use at most 9 digits after the point")
    return amount


def _bounded(amount: int, value: object) -> int:
    if amount > LARGEST:
        raise LedgerError(f"{value} is too large an amount", hint="amounts stay below 1e9 USD")
    return amount
