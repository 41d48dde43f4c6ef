"""What a thousand such requests cost, in whole nano-dollars.

Pure. A price or a token count that is unknown makes the cost unknown, never 0.
"""

from collections.abc import Sequence

from dutchdoor.core import LedgerError, UsageError
from dutchdoor.drill.report import Cost, Price, PriceSource, Reply
from dutchdoor.ledger import prices

THOUSAND = 1_000


def parse_price(option: str, text: str) -> Price:
    """A price written as `IN,OUT`, USD per million tokens. Raises UsageError naming `option`."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2:
        raise UsageError(
            f"{option} {text} is no price", hint=f"write {option} IN,OUT in USD per million tokens"
        )
    try:
        return price(parts[0], parts[1], "option")
    except LedgerError as error:
        raise UsageError(f"{option}: {error.message}", hint=error.hint) from error


def price(input: float | str, output: float | str, source: PriceSource) -> Price:
    """A price in USD per million tokens as exact pico-dollars a token."""
    exact = prices.Price.per_million(input, output)
    return Price(input_pico_usd=exact.input, output_pico_usd=exact.output, source=source)


def cost(replies: Sequence[Reply], known: Price | None) -> Cost | None:
    """The cost of a thousand requests like the answered ones, or None where price or usage is unknown."""
    answers = [reply for reply in replies if reply.text is not None]
    if known is None or not answers:
        return None
    exact = prices.Price(input=known.input_pico_usd, output=known.output_pico_usd)
    total = 0
    for reply in answers:
        if reply.input_tokens is None or reply.output_tokens is None:
            return None
        total += exact.cost(reply.input_tokens, reply.output_tokens)
    return Cost(per_thousand_nano_usd=-(-total * THOUSAND // len(answers)), requests=len(answers))
