"""Money: prices in integer pico-dollars a token, amounts in integer nano-dollars.

A request is rounded up once, after its tokens are summed. Floats never enter a sum: a price written as a
decimal is converted exactly or refused. Where prices come from: see `dutchdoor.ledger.price_book`.
"""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import msgspec

from dutchdoor.core import LedgerError

PICO_PER_TOKEN = 1_000_000  # 1 USD per million tokens is 10⁻⁶ USD a token, which is 10⁶ pico-dollars a token
PICO_PER_NANO = 1_000
NANO_PER_USD = 1_000_000_000
LARGEST = 1 << 62  # what an INTEGER column holds, with room for sums
LONGEST = 40  # digits of an amount; with them even 10¹² USD is written to the last pico-dollar


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rate card, in integer pico-dollars a token; raises LedgerError for a rate below 0 or too large.

    `input` is for input tokens that no other rate names. `cache_write` is for what a cache keeps for the
    provider's usual time, `cache_write_hour` for an hour. A null rate is charged as the one above it:
    an hour as any write, a read or a write as `input`.
    """

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_hour: int | None = None

    def __post_init__(self) -> None:
        for rate in (self.input, self.output, self.cached_input, self.cache_write, self.cache_write_hour):
            if rate is not None and not 0 <= rate <= LARGEST:
                raise LedgerError(f"{rate} pico-dollars a token is no price")

    @property
    def dearest_input(self) -> int:
        """The most that one token of input can come to."""
        return max(self.input, self.cached_input or 0, self.cache_write or 0, self.cache_write_hour or 0)

    def input_cost(self, tokens: int, cached: int, written: int, written_hour: int) -> int:
        """Pico-dollars of input of which some was read from a cache or written to one.

        Parts that are more than the whole cannot be believed, so the whole is then charged at its dearest.
        """
        plain = tokens - cached - written - written_hour
        if plain < 0:
            return tokens * self.dearest_input
        read = self.input if self.cached_input is None else self.cached_input
        write = self.input if self.cache_write is None else self.cache_write
        hour = write if self.cache_write_hour is None else self.cache_write_hour
        return plain * self.input + cached * read + written * write + written_hour * hour


class Tier(Card, frozen=True, kw_only=True, omit_defaults=True):
    """The rate card of *all* tokens of a request whose input is more than `above` tokens."""

    above: int


class Price(Card, frozen=True, kw_only=True, omit_defaults=True):
    """What a request is charged; its own rates are those of the shortest inputs.

    `tiers` are sorted by their threshold, of which the last that the input exceeds holds for the whole
    request. `per_request` is nano-dollars a request. `excludes` names uses that this price does not
    cover, such as `input_audio` or `service_tier=priority`: what they cost is unknown. `source` is where
    the price was read.
    """

    tiers: tuple[Tier, ...] = ()
    per_request: int = 0
    excludes: tuple[str, ...] = ()
    source: str = "stated"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.per_request <= LARGEST:
            raise LedgerError(f"{self.per_request} nano-dollars a request is no price")
        thresholds = [tier.above for tier in self.tiers]
        if any(threshold < 0 for threshold in thresholds) or thresholds != sorted(set(thresholds)):
            raise LedgerError(f"the tiers of a price do not rise: above {thresholds}")

    @classmethod
    def per_million(
        cls,
        input: float | str | Decimal,
        output: float | str | Decimal,
        *,
        cached_input: float | str | Decimal | None = None,
        source: str = "stated",
    ) -> "Price":
        """From USD per million tokens; raises LedgerError where that is no whole number of pico-dollars a
        token.
        """
        cached = None if cached_input is None else pico_dollars(cached_input)
        return cls(input=pico_dollars(input), output=pico_dollars(output), cached_input=cached, source=source)

    def usd_per_million(self) -> dict[str, float]:
        """`{"input", "output"}` of the shortest inputs in USD per million tokens, as it was written, and
        `cached_input` where it has a rate of its own.
        """
        rates = {"input": self.input / PICO_PER_TOKEN, "output": self.output / PICO_PER_TOKEN}
        if self.cached_input is not None:
            rates["cached_input"] = self.cached_input / PICO_PER_TOKEN
        return rates

    def cost(
        self,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        written_tokens: int = 0,
        written_hour_tokens: int = 0,
    ) -> int:
        """Nano-dollars of one request, rounded up once.

        `input_tokens` is the whole input; of it, `cached_tokens` were read from a cache, `written_tokens`
        written to one for the usual time, and `written_hour_tokens` for an hour.
        """
        if input_tokens < 0 or output_tokens < 0:
            raise LedgerError("a request cannot have fewer than 0 tokens")
        card = self.card(input_tokens) if self.tiers else self
        if cached_tokens or written_tokens or written_hour_tokens:
            if cached_tokens < 0 or written_tokens < 0 or written_hour_tokens < 0:
                raise LedgerError("a request cannot have fewer than 0 tokens")
            read = card.input_cost(input_tokens, cached_tokens, written_tokens, written_hour_tokens)
        else:
            read = input_tokens * card.input
        return self.per_request - (-(read + output_tokens * card.output) // PICO_PER_NANO)

    def worst(self, input_tokens: int, output_tokens: int) -> int:
        """The most nano-dollars that a request of at most so many tokens can come to, however its input is
        cached.
        """
        if input_tokens < 0 or output_tokens < 0:
            raise LedgerError("a request cannot have fewer than 0 tokens")
        if self.tiers:
            most = max(
                tokens * card.dearest_input + output_tokens * card.output
                for card, tokens in self._reachable(input_tokens)
            )
        else:
            most = input_tokens * self.dearest_input + output_tokens * self.output
        return self.per_request - (-most // PICO_PER_NANO)

    def card(self, input_tokens: int) -> Card:
        """The rate card of a request with so much input."""
        for tier in reversed(self.tiers):
            if input_tokens > tier.above:
                return tier
        return self

    def _reachable(self, input_tokens: int) -> Iterator[tuple[Card, int]]:
        """Each card that at most so much input can come under, with the most input it then holds for.

        More input may be cheaper: a dear card ends where the next begins.
        """
        card: Card = self
        for tier in self.tiers:
            if input_tokens <= tier.above:
                break
            yield card, tier.above
            card = tier
        yield card, input_tokens


def pico_dollars(usd_per_million: float | str | Decimal) -> int:
    """Pico-dollars a token of a price in USD per million tokens, exactly; a float means its shortest
    decimal form.
    """
    amount = _exact(usd_per_million) * PICO_PER_TOKEN
    if amount.denominator != 1:
        raise LedgerError(
            f"the price {usd_per_million} USD per million tokens is no whole number of pico-dollars a token",
            hint="use at most 6 digits after the point",
        )
    return _bounded(amount.numerator, usd_per_million)


def nanodollars(usd: float | str | Decimal) -> int:
    """Nano-dollars of an amount in USD, exactly; raises LedgerError where it has more than 9 digits after
    the point.
    """
    amount = _exact(usd) * NANO_PER_USD
    if amount.denominator != 1:
        raise LedgerError(
            f"{usd} USD is no whole number of nano-dollars", hint="use at most 9 digits after the point"
        )
    return _bounded(amount.numerator, usd)


def usd(nanodollars: int) -> str:
    """An amount as a person reads it: exact, without trailing zeros, at least two digits after the point."""
    return _shown(nanodollars, 9)


def usd_per_million(pico_dollars: int) -> str:
    """A rate as a person reads it, in USD per million tokens: exact, at least two digits after the point."""
    return _shown(pico_dollars, 6)


def _shown(amount: int, places: int) -> str:
    whole, rest = divmod(abs(amount), 10**places)
    digits = f"{rest:0{places}d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{digits}"


def _exact(value: float | str | Decimal) -> Fraction:
    """A fraction, since a product of decimals is silently rounded to 28 digits."""
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
    if len(amount.as_tuple().digits) > LONGEST:
        raise LedgerError("this amount of money has too many digits", hint="use at most 9 after the point")
    return Fraction(amount)


def _bounded(amount: int, value: object) -> int:
    if amount > LARGEST:
        raise LedgerError(f"{value} is too large an amount", hint="amounts stay below 1e9 USD")
    return amount
