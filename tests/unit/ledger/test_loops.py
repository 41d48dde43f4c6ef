"""One ledger that several event loops write to: nobody's operation is left lying."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dutchdoor.ledger.keys import new_request
from dutchdoor.ledger.store import Admission, Ledger, Used
from dutchdoor.ledger.writer import Writer


@pytest.fixture
def torn_apart() -> Iterator[None]:
    """Threads take turns as often as they can, so that what may meet does meet."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


async def test_loops_that_write_at_once_are_all_answered(tmp_path: Path, torn_apart: None) -> None:
    async with await Ledger.open_in(tmp_path) as ledger:
        await ledger.begin()
        await ledger.create_key("x")
        (key,) = await ledger.keys()
        done: list[str] = []

        async def requests() -> None:
            for _ in range(60):
                admission = Admission(id=new_request(), key=key, model="m", target="t", nanodollars=1)
                await ledger.reserve(admission)
                await ledger.settle(admission.id, Used(target="t", state="finished", counted="none"))
                done.append(admission.id)

        async def some() -> None:
            await asyncio.wait_for(asyncio.gather(*(requests() for _ in range(3))), 60)

        threads = [threading.Thread(target=lambda: asyncio.run(some())) for _ in range(4)]
        for each in threads:
            each.start()
        while any(each.is_alive() for each in threads):
            await asyncio.sleep(0.01)
        assert len(set(done)) == 4 * 3 * 60


async def test_a_wake_that_finds_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Two loops may wake the thread for one group: the second finds nothing, and must not look busy for ever."""
    async with await Ledger.open_in(tmp_path) as ledger:
        writer: Writer = ledger._writer
        writer._busy = True
        writer._wake.put(None)
        while writer._busy:
            await asyncio.sleep(0.001)
        async with asyncio.timeout(10):
            await ledger.create_key("x")


async def test_what_is_put_while_the_thread_looks_busy_is_taken_up(tmp_path: Path) -> None:
    async with await Ledger.open_in(tmp_path) as ledger:
        writer: Writer = ledger._writer
        writer._busy = True  # so that nobody looks
        waiting = asyncio.ensure_future(ledger.create_key("x"))
        await asyncio.sleep(0)
        writer._wake.put(None)
        async with asyncio.timeout(10):
            await waiting
