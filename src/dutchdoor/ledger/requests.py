"""What a request is to the ledger: what is asked to be held for it, what it came to, and what was booked."""

import datetime
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from dutchdoor.core import LedgerError
from dutchdoor.ledger.keys import Key
from dutchdoor.ledger.prices import Price

State = Literal["finished", "left", "broken", "failed", "interrupted"]
Counted = Literal["reported", "relayed", "none"]
LARGEST_REQUEST = 1 << 53  # nano-dollars (9 million USD): a thousand of them still fit into a column


class KeyRefusedError(LedgerError):
    """The key does not exist, was revoked, or has another secret by now."""


class BudgetError(LedgerError):
    """A budget does not hold the worst case of the request. `account` is a key's id, `team:NAME` or
    `family:NAME`; empty where no budget could.
    """

    def __init__(self, message: str, *, hint: str | None = None, account: str = "") -> None:
        super().__init__(message, hint=hint)
        self.account = account


class UnpricedError(BudgetError):
    """The request may be served at an unknown price, against which a budget cannot be held."""


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A request that wants to be admitted, at its worst case in nano-dollars (0 where unpriced).

    `families` are the model families that may come to serve it: its worst case is held against the budgets of
    all of them. `unpriced`: some target may serve it at an unknown price, which no budget allows. `at` is when
    it came, null for now.
    """

    id: str
    key: Key
    model: str
    target: str
    nanodollars: int
    families: tuple[str, ...] = ()
    unpriced: bool = False
    at: datetime.datetime | None = None


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """An admitted request: its worst case is held against its budgets. `nanodollars` is 0 where unpriced."""

    id: str
    key: str
    nanodollars: int


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to. `price` null: unknown, so what it cost is unknown too.

    `cached_tokens` and `written_tokens` (read from the target's cache, and kept in it) are parts of
    `input_tokens`. `family` is the one that served it, null for none; unset for the first that it was admitted
    for.
    """

    target: str
    state: State
    counted: Counted
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    price: Price | None = None
    family: str | UnsetType | None = UNSET


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What was booked. `alarm` says why it is not what the tokens come to, or whose budget was not charged."""

    nanodollars: int | None
    alarm: str | None = None


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-dollars of an account in its present period."""

    period: str
    spent: int
    held: int
