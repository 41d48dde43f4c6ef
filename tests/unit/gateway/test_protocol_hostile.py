"""Clients and upstreams that mean ill: what they can make us keep, believe or lose."""

import asyncio

import pytest

from dutchdoor.gateway.protocol import connection
from dutchdoor.gateway.protocol.answer import LostError
from dutchdoor.gateway.protocol.request import JSON, Request, Responder
from tests.unit.gateway.test_client import ASK, NEVER, says, upstream
from tests.unit.gateway.test_protocol import House, answer, opened, post, wired

HEAD = b"POST /v1/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_who_asks_on_and_on_and_reads_nothing_is_not_served_on() -> None:
    async def large(_: Request, responder: Responder) -> None:
        responder.send(200, b"a" * 100_000, [JSON])

    house = House(large)
    async with opened(house) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
        for _ in range(20):
            writer.write(post() * 100)
            await asyncio.sleep(0.01)
        served = len(house.requests)
        await asyncio.sleep(0.1)
        assert len(house.requests) == served < 500
        got = 0
        while got < served + 20:  # who reads after all gets what it asked for
            await asyncio.wait_for(answer(reader), 5)
            got += 1
        writer.close()


async def test_more_requests_at_once_than_anyone_sends_are_refused() -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 5000)
        got = await asyncio.wait_for(reader.read(), 5)
        assert got.count(b"HTTP/1.1 200") <= 1025


async def test_a_stall_is_not_hidden_by_more_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_S", 10.0)

    async with opened(House()) as running, wired(running):
        await asyncio.sleep(0.05)
        (one,) = running.connections
        waits = iter([100, 200, 300, 400])

        class Full:
            aborted = False

            def get_write_buffer_size(self) -> int:
                return next(waits)

            def abort(self) -> None:
                self.aborted = True

        kept, full = one._transport, Full()
        one._transport, one.pressed = full, True  # type: ignore[assignment]
        one._stalled = (0.0, -1)
        for now in (1.0, 6.0, 10.0):
            one.look_at_the_clock(now)
        assert not full.aborted
        one.look_at_the_clock(12.0)
        one._transport, one.pressed = kept, False
        assert full.aborted


@pytest.mark.parametrize("endless", [b"0\r\nx: ", b"1;x="])
async def test_a_trailer_or_an_extension_without_an_end_is_refused(endless: bytes) -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(HEAD + endless)
        for _ in range(20):
            writer.write(b"a" * 20_000)
            await asyncio.sleep(0)
        assert (await answer(reader))[0] == 431


async def test_a_long_chunked_body_in_small_pieces_is_no_endless_trailer() -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(HEAD + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n")
        assert (await answer(reader))[2] == b"POST /v1/x " + b"a" * 100_000


async def test_a_trailer_is_no_header() -> None:
    house = House()
    async with opened(house) as running, wired(running) as (reader, writer):
        writer.write(HEAD + b"1\r\na\r\n0\r\nauthorization: Bearer k\r\n\r\n")
        assert (await answer(reader))[0] == 200
    assert house.requests[0].header(b"authorization") is None


async def test_an_upstreams_trailer_is_no_header() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nretry-after: 9\r\n\r\n"
    async with upstream(says(chunked)) as (origin, _):
        got = await origin.send(ASK, NEVER)
        assert await got.read(10) == b"ok" and b"retry-after" not in got.headers


async def test_an_upstream_that_switches_protocols_is_lost_and_nothing_breaks() -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
    async with upstream(says(switch)) as (origin, _):
        with pytest.raises(LostError, match="no HTTP"):
            await origin.send(ASK, NEVER)
    assert not faults


async def test_a_target_in_absolute_form_is_the_path_in_it() -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(b"GET http://h:1/a?b HTTP/1.1\r\nhost: h\r\n\r\n")
        assert (await answer(reader))[2] == b"GET /a?b "


async def test_a_body_that_is_too_large_is_not_asked_for() -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n")
        assert (await answer(reader))[0] == 413


async def test_an_offer_to_upgrade_changes_neither_version_nor_close() -> None:
    async def stream(_: Request, responder: Responder) -> None:
        responder.start(200, [JSON])
        responder.end(b"whole")

    async with opened(House(stream)) as running, wired(running) as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\nwhole")
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: x\r\n\r\n")
        assert b"connection: close" in await asyncio.wait_for(reader.read(), 1)


async def test_many_offers_to_upgrade_at_once_are_answered() -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" * 900)
        for _ in range(900):
            assert (await answer(reader))[0] == 200


async def test_a_request_that_has_begun_to_come_is_answered_although_the_server_stops() -> None:
    async with opened(House(), drain_s=5) as running, wired(running) as (reader, writer):
        whole = post(b"abc")
        writer.write(whole[:-2])
        await asyncio.sleep(0.05)
        stopping = asyncio.ensure_future(running.stop())
        await asyncio.sleep(0.05)
        writer.write(whole[-2:])
        status, headers, body = await answer(reader)
        assert (status, headers["connection"], body) == (200, "close", b"POST /v1/x abc")
        await stopping


async def test_large_bodies_are_held_up_to_a_bound_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_HELD", 3_000_000)
    large = b"a" * 2_000_000
    async with opened(House()) as running:
        async with wired(running) as (_, first):
            first.write(post(large)[:-1])
            await asyncio.sleep(0.1)
            async with wired(running) as (reader, second):
                second.write(post(large)[:-1])
                status, _, body = await answer(reader)
                assert (status, body) == (503, b"overloaded")
            async with wired(running) as (reader, third):  # a small one is no matter
                third.write(post(b"abc"))
                assert (await answer(reader))[0] == 200
        await asyncio.sleep(0.1)
        assert running.held == 0
        async with wired(running) as (reader, writer):
            writer.write(post(large) + post(b"b") + b"no http")
            await reader.read()
        await asyncio.sleep(0.1)
        assert running.held == 0
