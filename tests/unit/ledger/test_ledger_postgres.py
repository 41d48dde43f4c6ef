"""What only a server can do to a ledger: break a connection, let two hosts meet, lie about its disk."""

import asyncio
import contextlib

import pytest

from dutchdoor.core import LedgerError
from dutchdoor.ledger.store import Ledger
from tests.fakes.postgres import running
from tests.unit.ledger.ledgers import admission, clients, new_key, serving, used

OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dutchdoor'"


async def test_a_ledger_goes_on_after_its_sessions_were_ended(postgres) -> None:
    place = postgres.url()
    async with serving(place) as ledger:
        key = await new_key(ledger, budget=100)
        await ledger.reserve(admission(key, 10, "r"))
        postgres.sql(OTHERS)
        await ledger.reserve(admission(key, 10, "s"))  # nothing was begun, so it could be begun anew
        assert (await ledger.settle("r", used(input_tokens=5))).nanodollars == 5
        assert (await ledger.balance(key)).held == 10
        async with await Ledger.open(place) as other:  # the run was claimed anew, so it is no dead one
            assert await other.begin() == []


async def test_a_connection_that_breaks_inside_a_group_fails_it_and_holds_nothing(postgres) -> None:
    async with serving(postgres.url()) as ledger:
        key = await new_key(ledger, budget=100)
        do = ledger._work.do

        def broken(db, operations):
            outcomes = do(db, operations)
            postgres.sql(OTHERS)
            return outcomes

        ledger._work.do = broken
        with pytest.raises(LedgerError, match="cannot be written"):
            await ledger.reserve(admission(key, 100))
        ledger._work.do = do
        await ledger.reserve(admission(key, 100))


async def test_an_admission_whose_commit_was_in_doubt_holds_nothing(postgres) -> None:
    async with serving(postgres.url()) as ledger:
        key = await new_key(ledger, budget=100)
        db = ledger._writer._db
        commit = db.commit

        def doubtful() -> None:
            commit()  # it is durable
            postgres.sql(OTHERS)
            db.run("SELECT 1")  # and its acknowledgement is lost

        db.commit = doubtful
        with pytest.raises(LedgerError):
            await ledger.reserve(admission(key, 100))
        await ledger.reserve(admission(key, 100, "r"))  # has all of the budget
        assert (await ledger.balance(key)).held == 100


async def test_a_server_that_is_away_is_an_error_and_its_return_is_noticed() -> None:
    with running() as server:
        place = server.url()
        async with serving(place) as ledger:
            key = await new_key(ledger)
            server.stop("immediate")
            with pytest.raises(LedgerError):
                await ledger.reserve(admission(key, 1))
            with pytest.raises(LedgerError):
                await ledger.keys()
            server.start()
            await ledger.reserve(admission(key, 1))
            assert len(await ledger.keys()) == 1


async def test_groups_of_two_hosts_over_the_same_accounts_all_come_through(postgres) -> None:
    place = postgres.url()
    async with serving(place) as first, serving(place) as second:
        keys = [await new_key(first, name, team=team) for name, team in zip("abcdef", "xyxyxy", strict=True)]
        for team in "xy":
            await first.set_budget(f"team:{team}", 10**9, "total")
        spent = await asyncio.gather(
            *(
                clients(ledger, key, 25)
                for ledger, order in ((first, keys), (second, keys[::-1]))
                for key in order
            ),
            first.set_budget("family:f", 5, "day"),
        )
        assert sum(spent[:-1]) == sum([(await first.balance(key)).spent for key in keys])


async def test_a_server_that_does_not_flush_is_refused() -> None:
    with running() as server:
        server.sql("ALTER SYSTEM SET fsync = off")
        server.sql("SELECT pg_reload_conf()")
        place = server.url()
        async with asyncio.timeout(30):
            while server.sql("SHOW fsync").strip() == "on":
                await asyncio.sleep(0.05)
        with pytest.raises(LedgerError, match="fsync is off"):
            await Ledger.open(place)


async def test_a_commit_that_is_not_waited_for_is_never_the_setting(postgres) -> None:
    place = postgres.url()
    async with await Ledger.open(f"{place}%20-csynchronous_commit%3Doff") as ledger:
        assert await ledger.change(lambda db: db.durability()) == ("on", "on")


async def test_a_database_of_someone_else_is_refused(postgres) -> None:
    place = postgres.url()
    schema = place.rpartition("%3D")[2]
    postgres.sql(f"CREATE TABLE {schema}.keys (id int)")
    with pytest.raises(LedgerError, match="no ledger") as caught:
        await Ledger.open(place)
    assert "search_path" not in caught.value.message


async def test_workers_that_start_at_once_make_the_tables_once(postgres) -> None:
    place = postgres.url()
    async with contextlib.AsyncExitStack() as opened:
        for ledger in await asyncio.gather(*(Ledger.open(place) for _ in range(4))):
            await opened.enter_async_context(ledger)
            assert await ledger.keys() == []


async def test_a_server_that_is_not_there_is_an_error_without_the_password() -> None:
    with pytest.raises(LedgerError, match="cannot be used") as caught:
        await Ledger.open("postgresql://ann:secret@127.0.0.1:1/db")
    assert "secret" not in caught.value.message and "db" in caught.value.message
