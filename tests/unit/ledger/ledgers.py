"""What tests of the ledger say often."""

import asyncio
import contextlib
import datetime

from dutchdoor.ledger.keys import Key, new_request
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.store import Admission, BudgetError, Ledger, Used

PRICE = Price.per_million("0.001", "0.003")  # 1 and 3 nano-dollars a token
MONTH = datetime.datetime.now(datetime.UTC).strftime("%Y-%m")


def used(**more) -> Used:
    plain = {"target": "t", "state": "finished", "counted": "reported", "price": PRICE}
    return Used(**{**plain, **more})


async def new_key(ledger: Ledger, name: str = "a", **limits) -> Key:
    made = await ledger.create_key(name, **limits)
    key = await ledger.find_key(made.key)
    assert key is not None
    return key


def admission(key: Key, nanodollars: int, request: str | None = None, **more) -> Admission:
    plain = {"id": request or new_request(), "model": "m", "target": "t"}
    return Admission(key=key, nanodollars=nanodollars, **{**plain, **more})


async def accounts(ledger: Ledger) -> dict[tuple[str, str], tuple[int, int]]:
    """What is spent and held, by account and period."""
    rows = await ledger.read(lambda db: db.rows("SELECT * FROM spend"))
    return {(row["account"], row["period"]): (row["spent"], row["held"]) for row in rows}


async def clients(ledger: Ledger, key: Key, count: int, **more) -> int:
    """Many clients at once, each for 30 nano-dollars at worst; returns what was charged."""

    async def client(number: int) -> int:
        asked = admission(key, 30, **more)
        try:
            await ledger.reserve(asked)
        except BudgetError:
            return 0
        settled = await ledger.settle(asked.id, used(input_tokens=number % 31))  # 1 nano-dollar a token
        assert settled is not None
        return settled.nanodollars

    return sum(await asyncio.gather(*(client(number) for number in range(count))))


@contextlib.asynccontextmanager
async def serving(place):
    """One more ledger object on a place, as another process has it."""
    async with await Ledger.open(place) as opened:
        await opened.begin()
        yield opened
