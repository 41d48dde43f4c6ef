"""Keys are looked up in memory, and what holds is what the database says: at once, in every process."""

import stat

import pytest

from dutchdoor.core import LedgerError
from dutchdoor.ledger.accounts import Change
from dutchdoor.ledger.keys import Key
from dutchdoor.ledger.lookup import KeyCache
from dutchdoor.ledger.store import BudgetError, KeyRefusedError, Ledger
from tests.unit.ledger.ledgers import MONTH, accounts, admission, new_key, used


async def test_a_secret_is_nowhere_in_the_file(tmp_path) -> None:
    async with await Ledger.open_in(tmp_path) as ledger:
        made = await ledger.create_key("a")
        held = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.sqlite3*"))
    assert made.key.encode() not in held and made.prefix.encode() in held
    assert stat.S_IMODE((tmp_path / "ledger.sqlite3").stat().st_mode) == 0o600


async def test_a_key_that_another_process_revokes_is_refused_at_once(ledger, place) -> None:
    made = await ledger.create_key("a")
    key = await ledger.find_key(made.key)
    assert key.id == made.id and ledger.cached_key(made.key) == key
    assert await ledger.find_key(made.key + "x") is None
    async with await Ledger.open(place) as other:
        await other.revoke_key(made.id)
    assert await ledger.find_key(made.key) == key  # memory does not know it yet, and admits nothing
    assert await ledger.find_key(made.key, fresh=True) is None
    assert ledger.cached_key(made.key) is None
    with pytest.raises(KeyRefusedError, match="revoked"):
        await ledger.reserve(admission(key, 0))


async def test_a_refused_key_is_dropped_from_memory(ledger, place) -> None:
    made = await ledger.create_key("a")
    key = await ledger.find_key(made.key)
    async with await Ledger.open(place) as other:
        new = await other.rotate_key(made.id)
    with pytest.raises(KeyRefusedError, match="another secret"):
        await ledger.reserve(admission(key, 0))
    assert ledger.cached_key(made.key) is None and await ledger.find_key(made.key) is None
    assert (await ledger.find_key(new.key)).id == made.id
    with pytest.raises(KeyRefusedError, match="no such key"):
        await ledger.reserve(admission(Key(id="key_x", name="x", prefix="", created=""), 0))


async def test_a_rotated_key_goes_on_with_its_usage_and_budget(ledger) -> None:
    key = await new_key(ledger, budget=100)
    await ledger.reserve(admission(key, 60, "r"))
    rotated = await ledger.find_key((await ledger.rotate_key(key.id)).key)
    with pytest.raises(BudgetError):
        await ledger.reserve(admission(rotated, 41))
    assert (await ledger.settle("r", used(input_tokens=50))).nanodollars == 50  # begun with the old secret
    assert (await ledger.balance(rotated)).spent == 50


async def test_changed_limits_hold_before_memory_knows_them(ledger, place) -> None:
    made = await ledger.create_key("a", budget=100)
    key = await ledger.find_key(made.key)
    async with await Ledger.open(place) as other:
        await other.set_key("a", Change(budget=50, rpm=7))
    with pytest.raises(BudgetError):
        await ledger.reserve(admission(key, 51))
    assert ledger.cached_key(made.key) is None  # so that the next request sees the new limits
    again = await ledger.find_key(made.key)
    assert (again.budget, again.rpm, again.version) == (50, 7, key.version + 1)
    await ledger.reserve(admission(again, 50))
    assert ledger.cached_key(made.key) is not None


async def test_a_budget_set_in_mid_period_knows_what_was_used_and_what_is_under_way(ledger) -> None:
    key = await new_key(ledger, team="x")
    await ledger.reserve(admission(key, 30, "done"))
    await ledger.settle("done", used(input_tokens=20))
    await ledger.reserve(admission(key, 40, "open"))
    await ledger.set_budget("team:x", 100, "month")
    ((_, balance),) = await ledger.budgets()
    assert (balance.spent, balance.held) == (20, 40)
    with pytest.raises(BudgetError, match="team"):
        await ledger.reserve(admission(key, 41))
    await ledger.settle(
        "open", used(input_tokens=10)
    )  # admitted before there was a budget, and charged to it
    assert (await accounts(ledger))["team:x", MONTH] == (30, 0)
    await ledger.remove_budget("team:x")
    await ledger.reserve(admission(key, 500))
    await ledger.set_budget("team:x", 100, "month")  # what was used in between counts
    assert (await accounts(ledger))["team:x", MONTH] == (30, 500)


async def test_another_period_of_a_key_begins_with_what_it_used_in_it(ledger) -> None:
    key = await new_key(ledger, budget=100)
    await ledger.reserve(admission(key, 60, "open"))
    changed = await ledger.set_key(key.id, Change(per="month"))
    assert (await ledger.balance(changed)).held == 60
    with pytest.raises(BudgetError):
        await ledger.reserve(admission(changed, 41))
    await ledger.settle("open", used(input_tokens=5))
    assert await accounts(ledger) == {(key.id, "total"): (5, 0), (key.id, MONTH): (5, 0)}


async def test_a_name_that_two_living_keys_have_revokes_neither(ledger) -> None:
    await ledger.create_key("a")
    second = await ledger.create_key("a")
    with pytest.raises(LedgerError, match="2 keys"):
        await ledger.revoke_key("a")
    assert (await ledger.revoke_key(second.id)).revoked
    assert (await ledger.revoke_key("a")).revoked  # the one that still lives
    with pytest.raises(LedgerError, match="no key"):
        await ledger.revoke_key("b")


async def test_a_key_named_like_the_id_of_another_does_not_stand_in_its_way(ledger) -> None:
    first = await ledger.create_key("a")
    await ledger.create_key(first.id)
    assert (await ledger.revoke_key(first.id)).id == first.id


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201])
async def test_a_name_that_cannot_be_shown_is_refused(tmp_path, name) -> None:
    async with await Ledger.open_in(tmp_path) as ledger:
        with pytest.raises(LedgerError):
            await ledger.create_key(name)
        with pytest.raises(LedgerError):
            await ledger.set_budget(f"team:{name}", 1, "day")


def test_memory_is_bounded() -> None:
    cache = KeyCache(most=3)
    for number in range(10):
        cache.put(Key(id=str(number), name="a", prefix="", created="", hash=str(number)))
    assert len(cache) == 3 and cache.get("9") is not None and cache.get("0") is None
