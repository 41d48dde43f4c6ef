"""What a ledger refuses that its callers may not know of: unknown prices, outsiders, a file that is gone."""

from pathlib import Path

import pytest

from dutchdoor.core import LedgerError
from dutchdoor.ledger.requests import UnpricedError
from dutchdoor.ledger.store import Ledger
from tests.unit.ledger.ledgers import accounts, admission, new_key, serving, used


@pytest.mark.parametrize("whose", ["key", "team", "family"])
async def test_no_budget_is_passed_by_at_an_unknown_price(ledger, whose: str) -> None:
    key = await new_key(ledger, team="red", budget=100 if whose == "key" else None)
    if whose != "key":
        await ledger.set_budget("team:red" if whose == "team" else "family:f", 100, "total")
    with pytest.raises(UnpricedError, match="unknown price"):
        await ledger.reserve(admission(key, 0, families=("f",), unpriced=True))
    await ledger.reserve(admission(key, 0, families=("f",)))
    free = await new_key(ledger, "b")
    await ledger.reserve(admission(free, 0, unpriced=True))


async def test_no_family_is_charged_for_what_none_of_them_served(ledger) -> None:
    await ledger.set_budget("family:f", 100, "total")
    key = await new_key(ledger, budget=100)
    for request, served, whose in (("a", {}, "f"), ("b", {"family": None}, None)):
        await ledger.reserve(admission(key, 10, request, families=("f",)))
        settled = await ledger.settle(request, used(input_tokens=5, **served))
        assert settled.nanodollars == 5 and settled.alarm is None
        (row,) = await ledger.read(
            lambda db, request=request: db.rows("SELECT family FROM usage WHERE id = ?", (request,))
        )
        assert row["family"] == whose
    spent = await accounts(ledger)
    assert spent["family:f", "total"] == (5, 0) and spent[key.id, "total"] == (10, 0)


async def test_what_would_be_written_into_a_file_without_a_name_is_not_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite3"
    async with serving(file) as ledger:
        assert isinstance(ledger, Ledger)
        key = await new_key(ledger, budget=100)
        await ledger.reserve(admission(key, 10, "before"))
        gone = file.rename(tmp_path / "gone")
        for _ in range(2):
            with pytest.raises(LedgerError, match="deleted, moved or replaced"):
                await ledger.reserve(admission(key, 10))
        with pytest.raises(LedgerError, match="deleted, moved or replaced"):
            await ledger.settle("before", used(input_tokens=5))
        gone.rename(file)
        assert (await ledger.settle("before", used(input_tokens=5))).nanodollars == 5
        assert (await accounts(ledger))[key.id, "total"] == (5, 0)
