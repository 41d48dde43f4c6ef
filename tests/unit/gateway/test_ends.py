"""How a server ends, and what becomes of an answer that could not be booked."""

import asyncio
import json
import logging
import sqlite3
from typing import Any

import pytest

from dutchdoor.core import LedgerError, UsageError
from dutchdoor.engines.interface import ChatRequest, EngineInfo
from dutchdoor.gateway import unbooked
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.targets.engine import EngineTarget
from dutchdoor.gateway.targets.private import hider
from dutchdoor.ledger.requests import Settled, Used
from dutchdoor.ledger.store import Ledger
from tests.fakes.upstream import Reply, Upstream
from tests.unit.gateway.conftest import PRICE, Desk, Opener, route

STALLING = Reply(text="a b c", stall_after=2)


def refuse_settlements(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the next `times` settlements fail, as a full disk does."""
    settle, left = ledger.settle, [times]

    async def failing(request: str, used: Used) -> Settled | None:
        if left[0]:
            left[0] -= 1
            raise LedgerError("the ledger cannot be written: planted")
        return await settle(request, used)

    monkeypatch.setattr(ledger, "settle", failing)


async def until_booked(d: Desk) -> dict[str, Any]:
    for _ in range(200):
        if rows := await d.rows():
            return rows[0]
        await asyncio.sleep(0.01)
    raise AssertionError("it was never booked")


async def held(d: Desk) -> int:
    return (await d.ledger.balance((await d.ledger.keys())[0])).held


async def test_a_stream_that_could_not_be_booked_is_booked_as_soon_as_it_can_be(
    desk: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unbooked, "FIRST_S", 0.01)
    async with Upstream(Reply(text="a b")) as upstream, desk(route(upstream)) as d:
        refuse_settlements(d.ledger, monkeypatch, 3)
        with caplog.at_level(logging.WARNING, "dutchdoor.gateway"):
            async with d.ask(stream=True) as response:
                text = (await response.read()).decode()
            row = await until_booked(d)
        assert "could not be booked" in text and "[DONE]" not in text
        assert (row["state"], row["nanodollars"]) == ("finished", 7 * 1000 + 2 * 3000)
        assert await held(d) == 0
        assert '"unbooked"' in caplog.text and '"booked-late"' in caplog.text


async def test_an_answer_that_was_not_sent_because_it_could_not_be_booked_costs_nothing(
    desk: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unbooked, "FIRST_S", 0.01)
    async with Upstream() as upstream, desk(route(upstream)) as d:
        refuse_settlements(d.ledger, monkeypatch, 3)
        async with d.ask() as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "ledger_unavailable"
        row = await until_booked(d)
        assert (row["state"], row["nanodollars"], await held(d)) == ("failed", 0, 0)


@pytest.mark.parametrize(("failures", "booked"), [(3, 1), (10**9, 0)])
async def test_what_is_owed_is_booked_at_the_latest_when_the_gateway_closes(
    desk: Opener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failures: int,
    booked: int,
) -> None:
    monkeypatch.setattr(unbooked, "FIRST_S", 3600)
    async with Upstream(Reply(text="a b")) as upstream, desk(route(upstream)) as d:
        refuse_settlements(d.ledger, monkeypatch, failures - 1)
        async with d.ask(stream=True) as response:
            await response.read()
        await d.server.stop()
        ledger = sqlite3.connect(d.ledger.path)
        assert ledger.execute("SELECT count(*) FROM usage").fetchone()[0] == booked
        assert ledger.execute("SELECT count(*) FROM reservations").fetchone()[0] == 1 - booked
        ledger.close()
        assert ("never-booked" in caplog.text) is not bool(booked)


async def read(asking: Any) -> str:
    async with asking as response:
        return (await response.read()).decode()


@pytest.mark.parametrize("hurried", [True, False])
async def test_a_stream_that_the_end_of_the_server_cuts_says_so_and_is_booked_as_broken(
    desk: Opener, hurried: bool
) -> None:
    async with Upstream(STALLING) as upstream, desk(route(upstream)) as d:
        asking = asyncio.ensure_future(read(d.ask(stream=True)))
        while not upstream.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        if hurried:
            d.server.hurry()
        await d.server.stop()  # else after 2 seconds
        text = await asking
        assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "stream_broken"
        assert d.server.app.closed
        ledger = sqlite3.connect(d.ledger.path)
        assert ledger.execute("SELECT state, output_tokens FROM usage").fetchall() == [("broken", 2)]
        ledger.close()


async def test_the_ledger_stays_open_until_what_was_cut_is_booked(
    desk: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream(STALLING) as upstream, desk(route(upstream)) as d:
        settle = d.ledger.settle

        async def slow(request: str, used: Used) -> Settled | None:
            await asyncio.sleep(0.5)
            return await settle(request, used)

        monkeypatch.setattr(d.ledger, "settle", slow)
        asking = asyncio.ensure_future(read(d.ask(stream=True)))
        while not upstream.requests:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        d.server.hurry()
        await d.server.stop()
        assert "stream_broken" in await asking
        ledger = sqlite3.connect(d.ledger.path)
        assert ledger.execute("SELECT state FROM usage").fetchall() == [("broken",)]
        ledger.close()


async def test_an_answer_that_had_not_begun_when_the_server_ends_is_503(desk: Opener) -> None:
    async with Upstream(Reply(delay_s=60)) as upstream, desk(route(upstream)) as d:
        asking = asyncio.ensure_future(read(d.ask()))
        while not upstream.requests:
            await asyncio.sleep(0.01)
        d.server.hurry()
        await d.server.stop()
        assert json.loads(await asking)["error"]["code"] == "stopping"


class Unable:
    """An engine that cannot do what is asked, and says so only when it is asked."""

    info = EngineInfo(name="fake", version="1", model="m", context_length=None)

    def __init__(self, message: str = "the schema is too hard") -> None:
        self.message = message
        self.closed = False

    async def stream(self, request: ChatRequest) -> Any:
        raise UsageError(self.message)
        yield

    async def close(self) -> None:
        self.closed = True


async def test_a_hurried_server_closes_its_engines(desk: Opener) -> None:
    engine = Unable()
    async with desk(Route(model="m", targets=(EngineTarget("own", engine, PRICE),))) as d:
        d.server.hurry()
        await d.server.stop()
        assert engine.closed


async def test_what_an_engine_cannot_do_is_asked_of_the_next_target(desk: Opener) -> None:
    own = EngineTarget("own", Unable(), PRICE)
    async with Upstream(Reply(text="mine")) as upstream:
        both = Route(model="m", targets=(own, *route(upstream).targets))
        async with desk(both, Route(model="alone", targets=(own,))) as d:
            async with d.ask(stream=True) as response:
                assert response.headers["x-dutchdoor-target"] == "t0"
            async with d.ask(model="alone") as response:
                error = (await response.json())["error"]
                assert (response.status, error["message"]) == (400, "the schema is too hard")


async def test_a_target_that_only_failed_is_named_before_one_that_cannot(desk: Opener) -> None:
    own = EngineTarget("own", Unable(), PRICE)
    async with (
        Upstream(Reply(status=429)) as busy,
        desk(Route(model="m", targets=(own, *route(busy).targets))) as d,
        d.ask() as response,
    ):
        assert response.status == 429  # asking again may help


async def test_an_upstream_behind_a_guard_is_not_shown_either(desk: Opener) -> None:
    url = "http://10.1.2.3:9000/v1"
    engine = Unable(f"{url}/chat/completions answers 400: no sk-secret-1")
    own = EngineTarget("own", engine, PRICE, hide=hider(url, "sk-secret-1"))
    async with desk(Route(model="m", targets=(own,))) as d, d.ask() as response:
        assert (await response.json())["error"]["message"] == "… answers 400: no …"
