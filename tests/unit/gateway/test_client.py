"""HTTP/1.1 to upstreams: connections that are kept, lost, silent, or say what nobody asked for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dutchdoor.gateway.protocol import client
from dutchdoor.gateway.protocol.answer import CannotConnectError, LostError, SilentError, UpstreamError
from dutchdoor.gateway.protocol.client import Origin, header_safe

ASK = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
NEVER = float("inf")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


@contextlib.asynccontextmanager
async def upstream(handler: Handler, idle_s: float = 5.0) -> AsyncIterator[tuple[Origin, list[int]]]:
    """An upstream that does as `handler` says with each connection; the list holds their numbers."""
    seen: list[int] = []
    writers = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(len(seen))
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await handler(reader, writer, seen[-1])
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    origin = Origin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", idle_s=idle_s)
    try:
        yield origin, seen
    finally:
        origin.close()
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.01)


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def says(*pieces: bytes, times: int = 1, pause_s: float = 0.0) -> Handler:
    """Answers with pieces, and closes after so many requests."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        for _ in range(times):
            await head(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)

    return handler


async def ask(origin: Origin, deadline: float = NEVER) -> bytes:
    return await (await origin.send(ASK, deadline)).read(1 << 20)


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with upstream(says(OK, times=9)) as (origin, seen):
        assert [await ask(origin) for _ in range(3)] == [b"ok"] * 3
        assert seen == [0]
        assert await asyncio.gather(*(ask(origin) for _ in range(4))) == [b"ok"] * 4
        assert len(seen) == 4  # one request at a time on each


async def test_a_kept_connection_that_was_closed_in_between_costs_no_request() -> None:
    async with upstream(says(OK)) as (origin, seen):  # closes after one request, without saying so
        assert await ask(origin) == b"ok"
        assert await ask(origin) == b"ok"
        assert seen == [0, 1]


async def test_a_fresh_connection_that_breaks_is_not_asked_again() -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await head(reader)

    async with upstream(breaks) as (origin, seen):
        with pytest.raises(LostError):
            await ask(origin)
        assert seen == [0]  # it has got the request, and would be paid twice


async def test_a_kept_connection_that_breaks_within_an_answer_is_not_asked_again() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await head(reader)
        writer.write(OK)
        await head(reader)
        writer.write(b"HTTP/1.1 2")

    async with upstream(handler) as (origin, seen):
        assert await ask(origin) == b"ok"
        with pytest.raises(LostError):
            await ask(origin)
        assert seen == [0]


@pytest.mark.parametrize(
    "answer",
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n", b"1\r\nk\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: a\r\n\r\no", b"k"),  # ends with the connection
        (b"HTTP/1.0 200 OK\r\n\r\nok",),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", OK),
        tuple(bytes([byte]) for byte in OK),
    ],
)
async def test_every_form_of_an_answer_is_read(answer: tuple[bytes, ...]) -> None:
    async with upstream(says(*answer)) as (origin, _):
        assert await ask(origin) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",  # cut short
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
async def test_what_is_no_whole_answer_is_none(answer: bytes) -> None:
    async with upstream(says(answer)) as (origin, _):
        with pytest.raises(LostError):
            await ask(origin)


async def test_what_comes_without_being_asked_is_given_to_no_request() -> None:
    planted = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"
    async with upstream(says(OK + planted, times=2)) as (origin, seen):
        assert await ask(origin) == b"ok"
        assert await ask(origin) == b"ok"
        assert seen == [0, 1]  # the connection that said too much is not used again


async def test_an_answer_without_an_end_is_cut() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with upstream(endless) as (origin, _):
        with pytest.raises(LostError, match="without an end"):
            await ask(origin)


async def test_silence_and_a_deadline_end_a_request_at_any_point(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbeg"
    for pieces in ((b"",), (b"HTTP/1.1 20",), (begun,)):
        async with upstream(says(*pieces, pause_s=2), idle_s=0.1) as (origin, _):
            with pytest.raises(SilentError):
                await ask(origin)
    async with upstream(says(begun, *[b"a"] * 5, pause_s=0.1), idle_s=5) as (origin, _):
        monkeypatch.setattr(client, "SWEEP_S", 0.02)
        with pytest.raises(SilentError, match="deadline"):
            await ask(origin, asyncio.get_running_loop().time() + 0.15)


async def test_no_connection_is_said_as_such() -> None:
    with pytest.raises(CannotConnectError):
        await ask(Origin("http://127.0.0.1:9", idle_s=1))


async def test_pieces_go_on_as_they_come_and_wait_while_they_are_held() -> None:
    sent = 0

    async def many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        nonlocal sent
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(2000):
            writer.write(b"x" * 10_000)
            await writer.drain()
            sent += 1

    async with upstream(many) as (origin, _):
        answer = await origin.send(ASK, NEVER)
        got = 0

        def take(piece: bytes) -> None:
            nonlocal got
            got += len(piece)
            if got > 1_000_000:
                answer.hold(True)

        pumping = asyncio.ensure_future(answer.pump(take))
        await asyncio.sleep(0.3)
        assert got < 3_000_000 and sent < 2000  # what is not taken waits at the upstream
        before, got = got, -(10**9)
        answer.hold(False)
        await pumping
        assert before + got + 10**9 == 20_000_000


async def test_a_pump_that_is_stopped_leaves_the_rest_for_who_asks() -> None:
    async with upstream(
        says(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"ab", b"cd", pause_s=0.05)
    ) as (
        origin,
        _,
    ):
        answer = await origin.send(ASK, NEVER)
        taken: list[bytes] = []

        def take(piece: bytes) -> None:
            taken.append(piece)
            answer.stop()

        await answer.pump(take)
        assert taken == [b"ab"] and not answer.finished
        assert await answer.piece() == b"cd"
        assert await answer.piece() == b"" and answer.finished


async def test_closing_an_answer_cuts_the_upstream_off() -> None:
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: int) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nab")
        assert await reader.read() == b""
        gone.set()

    async with upstream(handler) as (origin, _):
        answer = await origin.send(ASK, NEVER)
        assert await answer.piece() == b"ab"
        answer.close()
        async with asyncio.timeout(5):
            await gone.wait()
        with pytest.raises(UpstreamError):
            await answer.piece()


def test_no_value_ends_its_header() -> None:
    assert header_safe("a b") == b"a b"
    with pytest.raises(ValueError, match="line break"):
        header_safe("a\r\nx: y")
