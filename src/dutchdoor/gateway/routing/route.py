"""Routes: a public model name, the targets behind it in order, and whether an unknown price is allowed."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from dutchdoor.family import manifest
from dutchdoor.gateway.call import Call
from dutchdoor.gateway.errors import ApiError
from dutchdoor.gateway.targets.interface import Target
from dutchdoor.gateway.tariff import price_for
from dutchdoor.ledger.keys import Key
from dutchdoor.ledger.prices import Price


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model and may be told.

    Null is unknown, or closed. `price` in USD per million tokens.
    """

    license: str | None = None
    context_length: int | None = None  # tokens
    parameters: int | None = None
    price: dict[str, float] | None = None


class Offer(NamedTuple):
    """A target that can do what is asked, and what it charges for that; null: unknown."""

    target: Target
    price: Price | None


@dataclass(frozen=True, kw_only=True)
class Route:
    """Targets in order, or with weights: then one is drawn, and the others follow as its fallback."""

    model: str
    targets: tuple[Target, ...]
    weights: tuple[float, ...] | None = None
    about: About = field(default_factory=About)
    unpriced: bool = False  # whether a target whose price is unknown may answer
    retries: int | None = None  # further tries after all targets have failed; null: the gateway's own number
    deadline_s: float | None = None  # seconds a request may take in all; null: the gateway's own

    def order(self, draw: Callable[[], float] = random.random) -> tuple[Target, ...]:
        """The targets in the order in which this request asks them; `draw` gives numbers in [0, 1).

        Those of weight 0 are never drawn: they stand in after all others, as they are written.
        """
        if self.weights is None:
            return self.targets
        weighed = list(zip(self.targets, self.weights, strict=True))
        left = [each for each in weighed if each[1]]
        ordered = []
        while left:
            at = draw() * sum(weight for _, weight in left)
            for index, (target, weight) in enumerate(left):
                at -= weight
                if at < 0 or index == len(left) - 1:
                    ordered.append(target)
                    del left[index]
                    break
        return (*ordered, *(target for target, weight in weighed if not weight))

    def able(self, call: Call, key: Key) -> list[Offer]:
        """The targets that can do what is asked at a price that may be charged; raises ApiError where there
        is none.

        An unknown price is never taken for 0: it is refused unless the route allows it, and always for a
        key with a budget, which could not be held.
        """
        able: list[Offer] = []
        refusal: ApiError | None = None
        for target in self.order():
            try:
                target.check(call)
            except ApiError as error:
                refusal = refusal or error
                continue
            price = price_for(target.price, call)
            if price is None and (not self.unpriced or key.budget is not None):
                refusal = refusal or unpriced_target(self.model)
                continue
            able.append(Offer(target, price))
        if not able:
            assert refusal is not None
            raise refusal
        return able


def price_of(stated: manifest.Price | None) -> Price | None:
    """A stated price in pico-dollars a token; null stays unknown."""
    return None if stated is None else Price.per_million(stated.input, stated.output)


def worst_case(offers: list[Offer], call: Call) -> int:
    """Nano-dollars of the dearest target for the most that the request can come to there."""
    worst = 0
    for target, price in offers:
        if price is not None:
            worst = max(worst, price.worst(*target.bound(call)))
    return worst


def unpriced_target(model: str) -> ApiError:
    """403 for a budget and a price that is unknown."""
    return ApiError(
        403,
        f"The price of `{model}` is unknown, so no budget can be held against it.",
        type="permission_error",
        code="unpriced_target",
        param="model",
    )
