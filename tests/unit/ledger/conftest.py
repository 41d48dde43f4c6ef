"""Where a ledger can be kept: the same tests run on SQLite and on a real PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dutchdoor.ledger.database import Place
from dutchdoor.ledger.store import Ledger
from tests.fakes.postgres import postgres

__all__ = ["postgres"]

Open = Callable[[], "Ledger"]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for one ledger."""
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite3"
    return request.getfixturevalue("postgres").url()


@pytest.fixture
async def ledger(place: Place) -> AsyncIterator[Ledger]:
    """A ledger that serves."""
    async with await Ledger.open(place) as opened:
        await opened.begin()
        yield opened
