"""The bill is the sum of the ledger to the nano-dollar, in every form and however it is broken down."""

import csv
import io
import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.core import UsageError
from dutchdoor.ledger.bill import Bill, By, as_csv, as_text, month_bounds, read_bill
from tests.fakes.postgres import postgres  # noqa: F401 - a fixture
from tests.unit.ledger.booked import Books, on_both  # noqa: F401 - a fixture

MONTH = "2026-11"
names = st.sampled_from(("a", "b", "=1+1"))
bookings = st.fixed_dictionaries(
    {
        "key": names,
        "team": st.none() | names,
        "family": st.none() | names,
        "model": names,
        "target": names,
        "at": st.sampled_from(
            (
                "2026-10-31T23:59:59.999999Z",
                "2026-11-01T00:00:00.000000Z",
                "2026-11-30T23:59:59.999999Z",
                "2026-12-01T00:00:00.000000Z",
            )
        ),
        "state": st.sampled_from(("finished", "left", "broken", "failed")),
        "input_tokens": st.integers(0, 10**6),
        "cached_tokens": st.integers(0, 10**6),
        "output_tokens": st.integers(0, 10**6),
        "nanodollars": st.none() | st.integers(0, 1 << 53),
        "alarm": st.none() | st.just("more than was reserved"),
    }
)


def as_json(bill: Bill) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(bill))


def in_month(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["at"].startswith(MONTH)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(bookings, max_size=30), st.none() | st.sampled_from(get_args(By)))
def test_the_bill_is_the_sum_of_the_ledger(books: Books, rows: list[dict], by: By | None) -> None:
    books.clear().book_all(rows)
    bill = read_bill(books, MONTH, by=by)
    booked = in_month(rows)
    assert bill.total_nanodollars == sum(row["nanodollars"] or 0 for row in booked)
    for name in ("input_tokens", "cached_tokens", "output_tokens"):
        charged = [row for row in booked if came_to_something(row)]
        assert sum(getattr(line, name) for line in bill.lines) == sum(row[name] for row in charged)
    assert sum(line.requests for line in bill.lines if line.nanodollars is None) == sum(
        row["nanodollars"] is None and came_to_something(row) for row in booked
    )
    again = list(csv.DictReader(io.StringIO(as_csv(bill))))
    assert sum(int(row["nanodollars"] or 0) for row in again) == bill.total_nanodollars


def came_to_something(row: dict) -> bool:
    tokens = row["input_tokens"] + row["output_tokens"]
    return row["state"] != "failed" or tokens > 0 or (row["nanodollars"] or 0) > 0


def test_a_bill_that_leaves_out_what_a_failed_request_was_charged_would_be_found(books: Books) -> None:
    books.book("r1", state="failed", nanodollars=5, input_tokens=5)  # version 1 billed 0 of it
    books.book("r2", state="failed", nanodollars=7)  # a price a request
    bill = read_bill(books, MONTH)
    assert bill.total_nanodollars == 12 == books.rows("SELECT sum(nanodollars) AS n FROM usage")[0]["n"]


def test_failures_that_came_to_nothing_are_on_no_line(books: Books) -> None:
    books.book("r1", state="failed", nanodollars=0)
    books.book("r2", state="failed", nanodollars=None)
    assert not read_bill(books, MONTH).lines


def test_the_json_of_a_bill_is_what_was_promised(books: Books) -> None:
    empty = as_json(read_bill(books, MONTH))
    assert empty == {"month": MONTH, "lines": [], "interrupted": [], "total_nanodollars": 0}
    books.book("r1", input_tokens=7, cached_tokens=3, output_tokens=2, nanodollars=11)
    books.book("r2", input_tokens=1, nanodollars=None)
    shared = {"key": "key_a", "model": "m", "target": "t", "requests": 1}
    assert as_json(read_bill(books, MONTH)) == {
        "month": MONTH,
        "lines": [
            {**shared, "input_tokens": 7, "cached_tokens": 3, "output_tokens": 2, "nanodollars": 11},
            {**shared, "input_tokens": 1, "output_tokens": 0, "nanodollars": None},
        ],
        "interrupted": [],
        "total_nanodollars": 11,
    }


def test_an_unknown_amount_is_a_line_of_its_own_and_never_0(books: Books) -> None:
    books.book("r1", nanodollars=5)
    books.book("r2", nanodollars=None)
    bill = read_bill(books, MONTH)
    assert [line.nanodollars for line in bill.lines] == [5, None]
    assert "and 1 requests at an unknown price" in as_text(bill, {})
    assert as_csv(bill).splitlines()[2] == "charged,key_a,m,t,1,0,0,0,,0"


def test_alarms_are_listed(books: Books) -> None:
    books.book("r1", nanodollars=5, alarm="usage came to 9 nano-dollars, 5 were reserved and charged")
    books.book("r2", nanodollars=5)
    bill = read_bill(books, MONTH)
    assert bill.lines[0].alarms == 1 and bill.lines[0].requests == 2
    assert isinstance(bill.alarms, tuple) and [alarm.id for alarm in bill.alarms] == ["r1"]
    assert "alarms: 1" in as_text(bill, {}) and "came to 9" in as_text(bill, {})


def test_what_was_interrupted_is_charged_nothing_and_listed(books: Books) -> None:
    books.book("r1", state="interrupted", counted="none", reserved=100)
    bill = read_bill(books, MONTH)
    assert not bill.lines and bill.total_nanodollars == 0
    assert [each.reserved_nanodollars for each in bill.interrupted] == [100]
    assert as_csv(bill).splitlines()[1] == "interrupted,key_a,m,t,1,0,0,0,0,0"
    assert "interrupted, charged nothing: 1" in as_text(bill, {"key_a": "ann"})


def test_a_bill_can_be_of_one_key_or_team(books: Books) -> None:
    books.book("r1", key="key_a", team="x", nanodollars=1)
    books.book("r2", key="key_b", team="x", nanodollars=2, alarm="more")
    books.book("r3", key="key_b", team="y", nanodollars=4, state="finished")
    books.book("r4", key="key_a", team="x", state="interrupted")
    assert read_bill(books, MONTH, key="key_a").total_nanodollars == 1
    assert read_bill(books, MONTH, team="x").total_nanodollars == 3
    assert read_bill(books, MONTH, key="key_b", team="y").total_nanodollars == 4
    assert not read_bill(books, MONTH, key="key_b").interrupted
    assert not read_bill(books, MONTH, key="key_a").alarms
    assert not read_bill(books, MONTH, key="' OR 1=1 --").lines


def test_a_bill_by_day_has_only_days(books: Books) -> None:
    books.book("r1", at="2026-11-02T00:00:00.000000Z", nanodollars=1, model="x")
    books.book("r2", at="2026-11-01T23:59:59.999999Z", nanodollars=2, model="y")
    books.book("r3", at="2026-11-01T00:00:00.000000Z", nanodollars=4, model="z")
    lines = as_json(read_bill(books, MONTH, by="day"))["lines"]
    assert [(line["day"], line["nanodollars"]) for line in lines] == [("2026-11-01", 6), ("2026-11-02", 1)]
    assert "key" not in lines[0] and "model" not in lines[0]


def test_requests_of_no_team_are_a_line_too(books: Books) -> None:
    books.book("r1", nanodollars=1)
    bill = read_bill(books, MONTH, by="team")
    assert as_json(bill)["lines"][0]["team"] is None
    assert as_csv(bill).splitlines()[1] == "charged,,1,0,0,0,1,0"
    assert as_text(bill, {}).splitlines()[1].startswith("–")


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\tx", "\r=1"])
def test_a_spreadsheet_runs_no_name(books: Books, name: str) -> None:
    books.book("r1", key=name, model=name, target=name)
    books.book("r2", key=name, model=name, target=name, state="interrupted")
    table = list(csv.reader(io.StringIO(as_csv(read_bill(books, MONTH)), newline="")))
    assert len(table) == 3
    for row in table[1:]:
        assert row[1:4] == ["'" + name] * 3


def test_a_bill_survives_json(books: Books) -> None:
    books.book("r1", alarm="x")
    bill = read_bill(books, MONTH, by="model")
    assert msgspec.json.decode(msgspec.json.encode(bill), type=Bill) == bill


def test_names_stand_for_ids_in_the_text_and_columns_are_flush(books: Books) -> None:
    books.book("r1", input_tokens=1234567, nanodollars=1_500_000_000)
    assert as_text(read_bill(books, MONTH), {"key_a": "ann"}) == (
        "key  model  target  requests      input  cached  output   USD\n"
        "ann  m      t              1  1,234,567       0       0  1.50\n"
        "\n"
        "total 2026-11: 1.50 USD\n"
    )


@pytest.mark.parametrize("month", ["2026", "2026-13", "2026-1", "november", "2026-11\n", "２０２６-11"])
def test_what_is_no_month_is_refused(month: str) -> None:
    with pytest.raises(UsageError):
        month_bounds(month)


def test_december_ends_with_the_year() -> None:
    assert month_bounds("2026-12") == ("2026-12-01T", "2027-01-01T")
