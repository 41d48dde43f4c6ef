"""The ledger holds budgets exactly, keeps what it acknowledged, and never shows a key."""

import asyncio
import datetime
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.core import LedgerError, UsageError
from dutchdoor.ledger import runs
from dutchdoor.ledger.bill import as_csv, as_text, month_bounds
from dutchdoor.ledger.keys import period
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.requests import BudgetError, KeyRefusedError, Used
from dutchdoor.ledger.store import Ledger

PRICE = Price.per_million("0.001", "0.003")  # 1 and 3 nano-dollars a token
MONTH = datetime.datetime.now(datetime.UTC).strftime("%Y-%m")


@pytest.fixture
async def ledger(tmp_path):
    async with await Ledger.open_in(tmp_path) as opened:
        await opened.begin()
        yield opened


def used(**more) -> Used:
    plain = {"target": "t", "state": "finished", "counted": "reported", "price": PRICE}
    return Used(**{**plain, **more})


async def test_a_commit_is_flushed_before_it_is_acknowledged(ledger) -> None:
    assert ledger.durability() == ("wal", 2)  # 2 is FULL
    writer = await ledger._writer.write(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
    assert writer == 2


async def test_a_secret_is_nowhere_in_the_file(ledger, tmp_path) -> None:
    made = await ledger.create_key("a")
    held = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.sqlite3*"))
    assert made.key.encode() not in held and made.prefix.encode() in held
    assert stat.S_IMODE((tmp_path / "ledger.sqlite3").stat().st_mode) == 0o600


async def test_a_key_is_found_by_its_secret_until_it_is_revoked_by_another_process(ledger, tmp_path) -> None:
    made = await ledger.create_key("a")
    assert (await ledger.find_key(made.key)).id == made.id
    assert await ledger.find_key(made.key + "x") is None
    async with await Ledger.open_in(tmp_path) as other:
        await other.revoke_key(made.id)
    assert await ledger.find_key(made.key) is None
    with pytest.raises(KeyRefusedError):
        await ledger.reserve("r", made.id, model="m", target="t", nanodollars=0)


async def test_a_name_that_two_living_keys_have_revokes_neither(ledger) -> None:
    await ledger.create_key("a")
    second = await ledger.create_key("a")
    with pytest.raises(LedgerError, match="2 keys"):
        await ledger.revoke_key("a")
    assert (await ledger.revoke_key(second.id)).revoked
    assert (await ledger.revoke_key("a")).revoked  # the one that still lives
    with pytest.raises(LedgerError, match="no key"):
        await ledger.revoke_key("b")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201])
async def test_a_name_that_cannot_be_shown_is_refused(ledger, name) -> None:
    with pytest.raises(LedgerError):
        await ledger.create_key(name)


async def test_a_hundred_clients_cannot_overspend_a_budget_by_anything(ledger) -> None:
    key = await ledger.create_key("a", budget=1000)

    async def client(number: int) -> int:
        try:
            await ledger.reserve(f"r{number}", key.id, model="m", target="t", nanodollars=30)
        except BudgetError:
            return 0
        settled = await ledger.settle(f"r{number}", used(input_tokens=number % 31))  # 1 nano-dollar a token
        return settled.nanodollars

    before = ledger.commits
    spent = sum(await asyncio.gather(*(client(number) for number in range(300))))
    balance = await ledger.balance((await ledger.keys())[0])
    assert balance.spent == spent <= 1000 and balance.held == 0
    assert spent > 0
    assert ledger.commits - before < 300  # writes share flushes


async def test_a_budget_of_today_is_free_again_tomorrow(ledger) -> None:
    key = await ledger.create_key("a", budget=10, per="day")
    at = datetime.datetime(2026, 11, 30, 23, 59, 59, tzinfo=datetime.UTC)
    await ledger.reserve("r1", key.id, model="m", target="t", nanodollars=10, at=at)
    with pytest.raises(BudgetError):
        await ledger.reserve("r2", key.id, model="m", target="t", nanodollars=1, at=at)
    await ledger.reserve(
        "r2", key.id, model="m", target="t", nanodollars=1, at=at + datetime.timedelta(seconds=1)
    )


def test_periods_are_utc() -> None:
    east = datetime.timezone(datetime.timedelta(hours=14))
    moment = datetime.datetime(2026, 12, 1, 5, 0, tzinfo=east)
    assert (period("day", moment), period("month", moment)) == ("2026-11-30", "2026-11")
    assert period("total", moment) == "total"


async def test_a_request_is_settled_once(ledger) -> None:
    key = await ledger.create_key("a")
    await ledger.reserve("r", key.id, model="m", target="t", nanodollars=100)
    assert (await ledger.settle("r", used(input_tokens=5))).nanodollars == 5
    assert await ledger.settle("r", used(input_tokens=50)) is None
    assert (await ledger.bill(MONTH)).total_nanodollars == 5


async def test_more_than_was_reserved_is_charged_as_reserved_with_an_alarm(ledger) -> None:
    key = await ledger.create_key("a", budget=100)
    await ledger.reserve("r", key.id, model="m", target="t", nanodollars=100)
    settled = await ledger.settle("r", used(input_tokens=101))
    assert settled.nanodollars == 100 and settled.alarm


async def test_an_unknown_price_is_unknown_in_the_bill_and_never_0(ledger) -> None:
    key = await ledger.create_key("a")
    for number, price in enumerate((None, PRICE)):
        await ledger.reserve(f"r{number}", key.id, model="m", target="t", nanodollars=9)
        await ledger.settle(f"r{number}", used(input_tokens=9, price=price))
    bill = await ledger.bill(MONTH)
    assert [line.nanodollars for line in bill.lines] == [9, None] and bill.total_nanodollars == 9
    assert "unknown" in as_text(bill, {}) and "1 requests at an unknown price" in as_text(bill, {})
    assert as_csv(bill).splitlines()[2].endswith(",9,0,")


async def test_what_a_dead_server_left_open_is_interrupted_and_charged_nothing(tmp_path) -> None:
    async with await Ledger.open_in(tmp_path) as first:
        await first.begin()
        key = await first.create_key("a", budget=100)
        await first.reserve("r", key.id, model="m", target="t", nanodollars=100)
        async with await Ledger.open_in(tmp_path) as second:
            assert await second.begin() == []  # the first is alive: its requests are its own
        first._run.release()  # as the kernel does when a process dies
        first._run = None
        async with await Ledger.open_in(tmp_path) as third:
            assert await third.begin() == ["r"]
            bill = await third.bill(MONTH)
            assert [line.id for line in bill.interrupted] == ["r"] and not bill.lines
            assert bill.interrupted[0].reserved_nanodollars == 100 and bill.total_nanodollars == 0
            assert (await third.balance((await third.keys())[0])).held == 0
            assert "interrupted, charged nothing: 1" in as_text(bill, {key.id: "a"})
            assert as_csv(bill).splitlines()[1].startswith("interrupted,")
            row = third._reader.execute("SELECT price, nanodollars FROM usage").fetchone()
            assert tuple(row) == (None, 0)  # its price is unknown here, and never 0
            assert not third._reader.execute("SELECT * FROM prices").fetchall()


def test_a_run_is_dead_when_nobody_holds_its_lock(tmp_path) -> None:
    run = runs.Run(tmp_path)
    assert not runs.is_dead(tmp_path, run.id)
    run.release()
    assert runs.is_dead(tmp_path, run.id)
    (tmp_path / "left").touch()
    assert runs.is_dead(tmp_path, "left")


async def test_a_price_that_changes_is_a_new_row_of_the_book(ledger) -> None:
    key = await ledger.create_key("a")
    for number, price in enumerate((PRICE, PRICE, Price(input=1, output=1), PRICE)):
        await ledger.reserve(f"r{number}", key.id, model="m", target="t", nanodollars=1000)
        await ledger.settle(f"r{number}", used(input_tokens=1, price=price))
    rows = ledger._reader.execute("SELECT price FROM usage ORDER BY id").fetchall()
    assert [row["price"] for row in rows] == [1, 1, 2, 3]


async def test_a_write_that_fails_undoes_itself_alone(ledger) -> None:
    key = await ledger.create_key("a")

    def broken(db: sqlite3.Connection) -> None:
        db.execute("UPDATE keys SET name = 'b'")
        raise ValueError("planted")

    done = await asyncio.gather(
        ledger._writer.write(broken),
        ledger.reserve("r", key.id, model="m", target="t", nanodollars=1),
        return_exceptions=True,
    )
    assert isinstance(done[0], ValueError) and done[1].id == "r"
    assert [each.name for each in await ledger.keys()] == ["a"]


async def test_a_fault_of_the_database_is_an_error_of_the_ledger(ledger) -> None:
    with pytest.raises(LedgerError, match="cannot be written"):
        await ledger._writer.write(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 3000),
    st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 1200), st.sampled_from(["settle", "leave"])),
        max_size=12,
    ),
)
async def test_spent_and_held_always_add_up(tmp_path_factory, budget, requests) -> None:
    async with await Ledger.open_in(tmp_path_factory.mktemp("money")) as ledger:
        await ledger.begin()
        key = await ledger.create_key("a", budget=budget)
        spent = held = 0
        for number, (worst, actual, what) in enumerate(requests):
            fits = spent + held + worst <= budget
            try:
                await ledger.reserve(f"r{number}", key.id, model="m", target="t", nanodollars=worst)
            except BudgetError:
                assert not fits
                continue
            assert fits
            if what == "settle":
                spent += (await ledger.settle(f"r{number}", used(input_tokens=actual))).nanodollars
            else:
                held += worst
        balance = await ledger.balance((await ledger.keys())[0])
        assert (balance.spent, balance.held) == (spent, held) and spent + held <= budget
        assert (await ledger.bill(MONTH)).total_nanodollars == spent


async def test_a_file_that_is_no_ledger_is_refused(tmp_path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(LedgerError, match="cannot be used"):
        await Ledger.open(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(LedgerError, match="no ledger"):
        await Ledger.open(tmp_path / "other")
    async with await Ledger.open(tmp_path / "mine"):
        pass
    mine = sqlite3.connect(tmp_path / "mine")
    mine.execute("PRAGMA user_version = 99")
    mine.close()
    with pytest.raises(LedgerError, match="version 99"):
        await Ledger.open(tmp_path / "mine")


async def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be written") as caught:
        await Ledger.open_in(Path(tmp_path / "file" / "data"))
    assert caught.value.hint


@pytest.mark.parametrize("month", ["2026", "2026-13", "2026-1", "november"])
def test_what_is_no_month_is_refused(month) -> None:
    with pytest.raises(UsageError):
        month_bounds(month)


def test_december_ends_with_the_year() -> None:
    assert month_bounds("2026-12") == ("2026-12-01T", "2027-01-01T")
