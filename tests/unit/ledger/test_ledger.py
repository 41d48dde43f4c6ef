"""The ledger holds budgets exactly and keeps what it acknowledged, in a file and on PostgreSQL."""

import asyncio
import datetime
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.core import LedgerError
from dutchdoor.ledger.keys import new_request, period
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.store import BudgetError, KeyRefusedError, Ledger
from tests.unit.ledger.ledgers import MONTH, PRICE, accounts, admission, clients, new_key, serving, used


async def test_a_commit_is_flushed_before_it_is_acknowledged(ledger, place) -> None:
    expected = ("wal", 2) if isinstance(place, Path) else ("on", "on")  # 2 is FULL
    assert ledger.durability() == expected
    assert await ledger.change(lambda db: db.durability()) == expected  # the connection that writes


async def test_a_hundred_clients_cannot_overspend_a_budget_by_anything(ledger) -> None:
    key = await new_key(ledger, budget=1000)
    before = ledger.commits
    spent = await clients(ledger, key, 300)
    balance = await ledger.balance(key)
    assert balance.spent == spent <= 1000 and balance.held == 0
    assert spent > 0
    assert ledger.commits - before < 300  # writes share flushes


async def test_two_processes_cannot_overspend_what_a_key_a_team_and_a_family_share(ledger, place) -> None:
    await ledger.set_budget("team:x", 900, "month")
    await ledger.set_budget("family:f", 700, "day")
    keys = [await new_key(ledger, name, budget=600, team="x") for name in "ab"]
    async with serving(place) as other:
        shares = await asyncio.gather(
            *(clients(each, key, 100, families=("f",)) for each in (ledger, other) for key in keys)
        )
    spent = await accounts(ledger)
    assert sum(shares) == spent["team:x", MONTH][0] <= 900
    assert sum(shares) == spent["family:f", period("day", datetime.datetime.now(datetime.UTC))][0] <= 700
    assert all((spent[key.id, "total"][0]) <= 600 for key in keys)
    assert not any(held for _, held in spent.values())
    assert sum(shares) > 0


async def test_those_that_came_first_and_fit_are_admitted(ledger) -> None:
    key = await new_key(ledger, budget=100)
    outcomes = await asyncio.gather(
        *(ledger.reserve(admission(key, amount)) for amount in (60, 50, 40, 1)), return_exceptions=True
    )
    assert [isinstance(each, BudgetError) for each in outcomes] == [False, True, False, True]
    assert outcomes[1].account == key.id


async def test_what_ends_makes_room_for_what_comes_with_it(ledger) -> None:
    key = await new_key(ledger, budget=100)
    first = await ledger.reserve(admission(key, 100))
    done = await asyncio.gather(
        ledger.settle(first.id, used(input_tokens=10)), ledger.reserve(admission(key, 90))
    )
    assert done[0].nanodollars == 10 and done[1].nanodollars == 90
    assert (await ledger.balance(key)).held == 90


async def test_a_request_that_is_given_up_before_it_was_admitted_can_be_settled(ledger) -> None:
    key = await new_key(ledger, budget=100)
    asked = admission(key, 100)
    reserving = ledger.reserve(asked)  # not awaited: both wait for the same group
    settled = await ledger.settle(asked.id, used())
    assert settled is not None and settled.nanodollars == 0
    assert (await reserving).id == asked.id and (await ledger.balance(key)).held == 0


async def test_the_database_itself_refuses_to_pass_a_budget(ledger) -> None:
    from dutchdoor.ledger.spends import Spends

    key = await new_key(ledger, budget=100)
    await ledger.reserve(admission(key, 60))

    def overspend(db) -> None:  # as a fault in what decides before it would
        spends = Spends()
        own = spends.of(key.id, "total")
        own.budget, own.admitted = 100, 41
        spends.write(db)

    with pytest.raises(LedgerError, match="while it was locked"):
        await ledger.change(overspend)
    assert (await ledger.balance(key)).held == 60


async def test_a_budget_of_today_is_free_again_tomorrow(ledger) -> None:
    key = await new_key(ledger, budget=10, per="day")
    at = datetime.datetime(2026, 11, 30, 23, 59, 59, tzinfo=datetime.UTC)
    first = await ledger.reserve(admission(key, 10, at=at))
    with pytest.raises(BudgetError):
        await ledger.reserve(admission(key, 1, at=at))
    await ledger.reserve(admission(key, 1, at=at + datetime.timedelta(seconds=1)))
    await ledger.settle(first.id, used(input_tokens=7))  # booked where it was admitted
    assert await accounts(ledger) == {(key.id, "2026-11-30"): (7, 0), (key.id, "2026-12-01"): (0, 1)}


def test_periods_are_utc() -> None:
    east = datetime.timezone(datetime.timedelta(hours=14))
    moment = datetime.datetime(2026, 12, 1, 5, 0, tzinfo=east)
    assert (period("day", moment), period("month", moment)) == ("2026-11-30", "2026-11")
    assert period("total", moment) == "total"


def test_ids_of_requests_sort_by_time_and_differ() -> None:
    made = [new_request() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert [each[:16] for each in made] == sorted(each[:16] for each in made)


async def test_a_request_is_settled_once(ledger, place) -> None:
    key = await new_key(ledger)
    await ledger.reserve(admission(key, 100, "r"))
    async with serving(place) as other:
        both = await asyncio.gather(
            *(each.settle("r", used(input_tokens=5)) for each in (ledger, other, ledger))
        )
    assert sorted(each.nanodollars for each in both if each) == [5] and both.count(None) == 2
    assert await ledger.settle("r", used(input_tokens=50)) is None
    assert (await ledger.bill(MONTH)).total_nanodollars == 5


async def test_more_than_was_reserved_is_charged_as_reserved_with_an_alarm(ledger) -> None:
    key = await new_key(ledger, budget=100)
    await ledger.reserve(admission(key, 100, "r"))
    settled = await ledger.settle("r", used(input_tokens=101))
    assert settled.nanodollars == 100 and settled.alarm
    (row,) = await ledger.read(lambda db: db.rows("SELECT alarm, reserved, nanodollars FROM usage"))
    assert (row["alarm"], row["reserved"], row["nanodollars"]) == (settled.alarm, 100, 100)


async def test_an_unpriced_request_is_a_durable_row_and_its_cost_is_unknown(ledger) -> None:
    key = await new_key(ledger)
    await ledger.reserve(admission(key, 0, "r"))
    (row,) = await ledger.read(lambda db: db.rows("SELECT * FROM reservations"))
    assert row["id"] == "r" and row["nanodollars"] == 0
    assert (await ledger.settle("r", used(input_tokens=9, price=None))).nanodollars is None
    (row,) = await ledger.read(lambda db: db.rows("SELECT * FROM usage"))
    assert (row["price"], row["nanodollars"], row["input_tokens"]) == (None, None, 9)


async def test_only_the_family_that_served_is_charged(ledger) -> None:
    await ledger.set_budget("family:f", 100, "total")
    await ledger.set_budget("family:g", 100, "total")
    key = await new_key(ledger)
    await ledger.reserve(admission(key, 60, "r", families=("f", "g")))
    with pytest.raises(BudgetError, match="family") as caught:
        await ledger.reserve(admission(key, 60, families=("h", "g")))
    assert caught.value.account == "family:g"
    settled = await ledger.settle("r", used(input_tokens=5, family="g"))
    assert settled.alarm is None
    spent = await accounts(ledger)
    assert spent["family:f", "total"] == (0, 0) and spent["family:g", "total"] == (5, 0)
    (row,) = await ledger.read(lambda db: db.rows("SELECT family FROM usage"))
    assert row["family"] == "g"
    await ledger.reserve(admission(key, 60, "s", families=("f", "g")))
    assert "family x" in (await ledger.settle("s", used(family="x"))).alarm  # no budget was asked for it


async def test_cached_tokens_are_booked_and_charged_at_their_own_rate(ledger) -> None:
    key = await new_key(ledger)
    price = Price.per_million("0.010", "0.003", cached_input="0.001")
    await ledger.reserve(admission(key, 1000, "r"))
    settled = await ledger.settle("r", used(input_tokens=10, cached_tokens=6, price=price))
    assert settled.nanodollars == 4 * 10 + 6 * 1
    (row,) = await ledger.read(lambda db: db.rows("SELECT cached_tokens FROM usage"))
    assert row["cached_tokens"] == 6


async def test_a_price_that_changes_is_a_new_row_of_the_book(ledger) -> None:
    key = await new_key(ledger)
    for number, price in enumerate((PRICE, PRICE, Price(input=1, output=1), PRICE)):
        await ledger.reserve(admission(key, 1000, f"r{number}"))
        await ledger.settle(f"r{number}", used(input_tokens=1, price=price))
    rows = await ledger.read(lambda db: db.rows("SELECT price FROM usage ORDER BY id"))
    assert [row["price"] for row in rows] == [1, 1, 2, 3]
    rows = await ledger.read(lambda db: db.rows("SELECT * FROM prices ORDER BY id"))
    assert {row["source"] for row in rows} == {"stated"}
    assert '"input":1000' in rows[0]["price"] and rows[0]["target"] == "t"


async def test_what_is_at_fault_in_a_group_fails_alone(ledger) -> None:
    key = await new_key(ledger, budget=100)
    await ledger.reserve(admission(key, 1, "twice"))
    done = await asyncio.gather(
        ledger.reserve(admission(key, 1, "twice")),
        ledger.reserve(admission(key, 1, model="\ud800")),
        ledger.reserve(admission(key, 1, "good")),
        ledger.settle("twice", used(input_tokens=-1)),
        return_exceptions=True,
    )
    assert [isinstance(each, LedgerError) for each in done] == [True, True, False, True]
    assert (await ledger.balance(key)).held == 2


async def test_a_change_that_fails_changes_nothing(ledger) -> None:
    await ledger.create_key("a")

    def broken(db) -> None:
        db.run("UPDATE keys SET name = 'b'")
        raise ValueError("planted")

    with pytest.raises(LedgerError, match="planted"):
        await ledger.change(broken)
    with pytest.raises(LedgerError, match="cannot be written"):
        await ledger.change(lambda db: db.run("INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(LedgerError, match="cannot be read"):
        await ledger.read(lambda db: db.rows("SELECT * FROM nowhere"))
    assert [each.name for each in await ledger.keys()] == ["a"]


async def test_a_read_sees_one_state_and_sums_are_integers(ledger) -> None:
    key = await new_key(ledger)
    loop = asyncio.get_running_loop()

    def read(db) -> list[int]:
        counts = [db.rows("SELECT count(*) AS n FROM reservations")[0]["n"]]
        asyncio.run_coroutine_threadsafe(write(), loop).result(30)
        counts.append(db.rows("SELECT count(*) AS n FROM reservations")[0]["n"])
        return counts

    async def write() -> None:
        await ledger.reserve(admission(key, 7))

    assert await ledger.read(read) == [0, 0]
    total = await ledger.read(lambda db: db.rows("SELECT sum(nanodollars) AS n FROM reservations"))
    assert type(total[0]["n"]) is int and total[0]["n"] == 7


async def test_amounts_that_no_column_holds_are_refused(ledger) -> None:
    key = await new_key(ledger)
    with pytest.raises(BudgetError):
        await ledger.reserve(admission(key, 1 << 60))
    with pytest.raises(BudgetError):
        await ledger.reserve(admission(key, -1))


async def test_nothing_is_written_before_begin_or_after_close(place) -> None:
    ledger = await Ledger.open(place)
    key = await new_key(ledger)
    with pytest.raises(LedgerError, match="begin"):
        await ledger.reserve(admission(key, 1))
    await ledger.close()
    await ledger.close()
    for late in (lambda: ledger.settle("r", used()), ledger.keys):
        with pytest.raises(LedgerError, match="closed"):
            await late()


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "settle", "interrupt", "rotate", "limit", "team"]),
        st.integers(0, 900),
        st.integers(0, 1200),
    ),
    max_size=25,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(0, 3000), actions=ACTIONS)
async def test_spent_is_what_was_booked_and_held_is_what_is_open(ledger, budget, actions) -> None:
    key = await new_key(ledger, budget=budget, per="month", team="x")
    open_: list[str] = []
    for action, worst, actual in actions:
        if action == "reserve":
            asked = admission(key, worst, families=("f",))
            try:
                await ledger.reserve(asked)
                open_.append(asked.id)
            except BudgetError:
                continue
            balance = await ledger.balance(key)
            assert balance.spent + balance.held <= max(budget, 0)
        elif action in ("settle", "interrupt") and open_:
            state = "finished" if action == "settle" else "interrupted"
            await ledger.settle(open_.pop(worst % len(open_)), used(input_tokens=actual, state=state))
        elif action == "rotate":
            made = await ledger.rotate_key(key.id)
            with pytest.raises(KeyRefusedError):
                await ledger.reserve(admission(key, 0))
            key = await ledger.find_key(made.key)
        elif action == "limit":
            await ledger.set_budget("family:f", worst * 4, "day" if actual % 2 else "total")
        else:
            await ledger.set_budget("team:x", worst * 4, "month" if actual % 2 else "day")
        await agree(ledger)


async def agree(ledger: Ledger) -> None:
    """Each account with a budget in force is what its bookings and open reservations come to."""
    in_force = [(key.id, "key", key.id, key.per) for key in await ledger.keys()]
    for each, _ in await ledger.budgets():
        kind, _, name = each.account.partition(":")
        in_force.append((each.account, kind, name, each.per))
    spent = await accounts(ledger)
    open_ = await ledger.read(lambda db: db.rows("SELECT * FROM reservations"))
    booked = await ledger.read(lambda db: db.rows("SELECT * FROM usage"))
    for account, kind, name, per in in_force:
        named = period(per, datetime.datetime.now(datetime.UTC))
        held = sum(
            row["nanodollars"]
            for row in open_
            if (f'"{name}"' in row["families"] if kind == "family" else row[kind] == name)
        )
        charged = sum(row["nanodollars"] or 0 for row in booked if row[kind] == name)
        assert spent.get((account, named), (0, 0)) == (charged, held), account


async def test_a_file_that_is_no_ledger_is_refused(tmp_path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(LedgerError, match="cannot be used"):
        await Ledger.open(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(LedgerError, match="no ledger"):
        await Ledger.open(tmp_path / "other")


async def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be written") as caught:
        await Ledger.open_in(Path(tmp_path / "file" / "data"))
    assert caught.value.hint


async def test_a_place_of_another_kind_is_refused_without_its_password() -> None:
    with pytest.raises(LedgerError, match="mysql") as caught:
        await Ledger.open("mysql://ann:secret@host/db")
    assert "secret" not in caught.value.message
