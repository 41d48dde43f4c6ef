"""Cores are shared first come, first served, and come back whatever happens."""

import asyncio

import pytest

from dutchdoor.vetting.cores import Cores, cores_here


async def test_no_more_is_held_than_there_is() -> None:
    cores, held, most = Cores(2), 0, 0

    async def work(wanted: int) -> None:
        nonlocal held, most
        async with cores.take(wanted) as count:
            held += count
            most = max(most, held)
            await asyncio.sleep(0.001)
            held -= count

    await asyncio.gather(*(work(1 + i % 2) for i in range(20)))
    assert most == 2


async def test_who_wants_more_than_there_is_gets_all() -> None:
    async with Cores(3).take(16) as count:
        assert count == 3
    assert cores_here() >= 1


async def test_a_large_wish_is_not_overtaken() -> None:
    cores, order = Cores(2), []

    async def work(name: str, wanted: int) -> None:
        async with cores.take(wanted):
            order.append(name)
            await asyncio.sleep(0.001)

    await asyncio.gather(work("first", 1), work("large", 2), work("small", 1))
    assert order == ["first", "large", "small"]


async def test_who_is_cancelled_gives_back_and_leaves_the_queue() -> None:
    cores = Cores(1)
    entered = asyncio.Event()

    async def hold() -> None:
        async with cores.take(1):
            entered.set()
            await asyncio.sleep(60)

    holder, waiter = asyncio.create_task(hold()), asyncio.create_task(hold())
    await entered.wait()
    waiter.cancel()
    holder.cancel()
    for task in (holder, waiter):
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(1), cores.take(1):
        pass
