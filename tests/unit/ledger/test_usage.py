"""What a key sees of itself: its own usage and what it may still spend, and nothing of others."""

import datetime
import json

import msgspec
import pytest

from dutchdoor.core import LedgerError
from dutchdoor.ledger.usage import UsageOfKey, read_usage_of
from tests.fakes.postgres import postgres  # noqa: F401 - a fixture
from tests.unit.ledger.booked import Books, on_both  # noqa: F401 - a fixture

NOW = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)
BEGIN, END = "2026-11-01T00:00:00.000000Z", "2026-12-01T00:00:00.000000Z"


@pytest.fixture(autouse=True)
def keys(books: Books) -> None:
    books.key("key_a", name="ann", team="red", budget=9, per="month")
    books.key("key_b", name="bob", team="red")


def test_a_key_sees_its_own_and_nothing_else(books: Books) -> None:
    books.book("r1", model="x", nanodollars=1, input_tokens=3)
    books.book("r2", model="y", nanodollars=2, at="2026-11-25T00:00:00.000000Z")
    books.book("r3", model="y", nanodollars=None)
    books.book("r4", model="y", nanodollars=64, at=END)
    books.book("r5", key="key_b", model="y", nanodollars=128)
    seen = read_usage_of(books, "key_a", BEGIN, END, NOW)
    assert [(line.model, line.nanodollars) for line in seen.by_model] == [("x", 1), ("y", 2), ("y", None)]
    assert [(line.day, line.nanodollars) for line in seen.by_day] == [
        ("2026-11-24", 1),
        ("2026-11-24", None),
        ("2026-11-25", 2),
    ]
    assert seen.total_nanodollars == 3


def test_budgets_are_those_of_the_present_period(books: Books) -> None:
    books.budget("team:red", 100, "day")
    books.budget("team:blue", 1, "day")
    books.spend("key_a", "2026-11", 3, 4)
    books.spend("key_a", "2026-10", 9, 0)
    books.spend("team:red", "2026-11-24", 50, 60)
    own, team = read_usage_of(books, "key_a", BEGIN, END, NOW).budgets
    assert json.loads(msgspec.json.encode(own)) == {
        "scope": "key",
        "name": "ann",
        "per": "month",
        "period": "2026-11",
        "budget_nanodollars": 9,
        "spent_nanodollars": 3,
        "held_nanodollars": 4,
        "remaining_nanodollars": 2,
    }
    assert (team.scope, team.name, team.period) == ("team", "red", "2026-11-24")
    assert team.remaining_nanodollars == 0  # a budget that was lowered is never below 0


def test_without_a_limit_what_remains_is_null(books: Books) -> None:
    (own,) = read_usage_of(books, "key_b", BEGIN, END, NOW).budgets
    assert own.budget_nanodollars is None and own.remaining_nanodollars is None
    assert (own.period, own.spent_nanodollars) == ("total", 0)


def test_a_key_that_is_none_is_an_error(books: Books) -> None:
    with pytest.raises(LedgerError, match="no key"):
        read_usage_of(books, "key_c", BEGIN, END, NOW)


def test_usage_survives_json(books: Books) -> None:
    books.book("r1")
    seen = read_usage_of(books, "key_a", BEGIN, END, NOW)
    assert msgspec.json.decode(msgspec.json.encode(seen), type=UsageOfKey) == seen
