"""HTTP/1.1 from clients: what is bounded, in which order answers go, and who waits for whom."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.gateway.protocol import connection, server
from dutchdoor.gateway.protocol.request import JSON, Request, Responder
from dutchdoor.gateway.protocol.server import GatewayServer

Answering = Callable[[Request, Responder], Awaitable[None]]
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class House:
    """Stands where the gateway stands: answers as the test wants, and remembers what it was asked."""

    def __init__(self, answering: Answering | None = None) -> None:
        self.answering = answering or self.echo
        self.requests: list[Request] = []
        self.draining = False

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def echo(self, request: Request, responder: Responder) -> None:
        responder.send(200, request.method + b" " + request.target + b" " + request.body, [JSON])

    async def __call__(self, request: Request, responder: Responder) -> None:
        self.requests.append(request)
        await self.answering(request, responder)

    def refusal(self, request: Request | None, status: int, message: str, code: str) -> bytes:
        return code.encode()


@contextlib.asynccontextmanager
async def opened(house: House, *, drain_s: float = 1) -> AsyncIterator[GatewayServer]:
    running = GatewayServer(house, port=0, drain_s=drain_s)  # type: ignore[arg-type]  # stands for a gateway
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@contextlib.asynccontextmanager
async def wired(running: GatewayServer) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer with a length or chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.read()
    return int(head[0].split(" ")[1]), headers, body


def post(body: bytes = b"", *headers: str, path: str = "/v1/x") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: h", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        for number in range(3):
            writer.write(post(b"%d" % number))
            assert (await answer(reader))[2] == b"POST /v1/x %d" % number


async def test_pipelined_requests_are_answered_in_their_order_although_the_first_is_slow() -> None:
    async def slow_first(request: Request, responder: Responder) -> None:
        await asyncio.sleep(0.05 if request.body == b"0" else 0)
        responder.send(200, request.body, [JSON])

    async with opened(House(slow_first)) as running, wired(running) as (reader, writer):
        writer.write(b"".join(post(b"%d" % number) for number in range(40)))
        got = [(await answer(reader))[2] for _ in range(40)]
        assert got == [b"%d" % number for number in range(40)]


async def test_a_request_may_come_in_single_bytes_and_in_chunks() -> None:
    chunked = (
        b"POST /p HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    async with opened(House()) as running, wired(running) as (reader, writer):
        for at in range(len(chunked)):
            writer.write(chunked[at : at + 1])
            await writer.drain()
        assert (await answer(reader))[2] == b"POST /p abcde"


async def test_who_waits_for_a_100_gets_it_before_sending_the_body() -> None:
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(post(b"abc", "expect: 100-continue")[:-3])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"abc")
        assert (await answer(reader))[2] == b"POST /v1/x abc"


async def test_an_offer_to_upgrade_is_not_taken_and_the_request_is_answered() -> None:
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAA")
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(post(b"abc", *offer))
        assert (await answer(reader))[2] == b"POST /v1/x abc"


async def test_http_1_0_is_answered_without_chunks_and_closed() -> None:
    async def stream(_: Request, responder: Responder) -> None:
        responder.start(200, [])
        responder.write(b"a")
        responder.end(b"b")

    async with opened(House(stream)) as running, wired(running) as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        status, headers, body = await answer(reader)
        assert (status, body, headers["connection"]) == (200, b"ab", "close")
        assert "transfer-encoding" not in headers


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, b"invalid_http"),
        (b"GET / HTTP/1.1\r\nhost: h\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, b"headers_too_large"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 414, b"url_too_long"),
        (b"GET / HTTP/1.1\r\nhost: h\r\na: " + b"b" * 70_000, 431, b"headers_too_large"),
        (
            post(b"", f"x: {'y' * 10}").replace(b"content-length: 0", b"content-length: 40000000"),
            413,
            b"body",
        ),
        (
            b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            b"invalid_http",
        ),  # two lengths: what one reader takes for a body another takes for the next request
        (
            b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            400,
            b"invalid",
        ),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n", 400, b"invalid_http"),
    ],
)
async def test_what_is_malformed_or_too_large_is_refused_and_closed(
    sent: bytes, status: int, code: bytes
) -> None:
    house = House()
    async with opened(house) as running, wired(running) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(5):
            got = await answer(reader)
            assert (got[0], got[1]["connection"]) == (status, "close") and code in got[2]
            assert await reader.read() == b""
    assert house.requests == []


async def test_a_chunked_body_is_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LARGEST_BODY", 1000)
    async with opened(House()) as running, wired(running) as (reader, writer):
        writer.write(b"POST /p HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"64\r\n" + b"a" * 100 + b"\r\n")
        assert (await answer(reader))[0] == 413


async def test_slow_headers_slow_bodies_and_silence_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "BODY_SILENCE_S", "KEPT_S"):
        monkeypatch.setattr(connection, name, 0.1)
    monkeypatch.setattr(server, "SWEEP_S", 0.02)
    async with opened(House()) as running:
        async with wired(running) as (reader, writer):  # a slow loris sends a byte now and then
            writer.write(b"GET / HTTP/1.1\r\nhost:")
            async with asyncio.timeout(5):
                assert (await answer(reader))[0] == 408
        async with wired(running) as (reader, writer):
            writer.write(post(b"abc")[:-1])
            async with asyncio.timeout(5):
                assert (await answer(reader))[0] == 408
        async with wired(running) as (reader, writer):
            writer.write(post(b"abc"))
            async with asyncio.timeout(5):
                assert (await answer(reader))[0] == 200
                assert await reader.read() == b""  # closed without a word
        async with wired(running) as (reader, writer), asyncio.timeout(5):
            assert (await answer(reader))[0] == 408  # said nothing at all


async def test_a_client_that_leaves_cancels_its_request_only() -> None:
    left = asyncio.Event()
    started = asyncio.Event()

    async def wait(request: Request, responder: Responder) -> None:
        if request.body:
            responder.send(200, b"ok", [JSON])
            return
        started.set()
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            assert responder.left and not responder.cut
            left.set()
            raise

    async with opened(House(wait)) as running, wired(running) as (reader, writer):
        async with wired(running) as (_, leaving):
            leaving.write(post())
            await started.wait()
        async with asyncio.timeout(5):
            await left.wait()
            writer.write(post(b"x"))
            assert (await answer(reader))[2] == b"ok"


async def test_a_client_that_does_not_read_holds_its_stream_back_and_nobody_elses() -> None:
    written = 0
    held: list[bool] = []

    async def endless(request: Request, responder: Responder) -> None:
        nonlocal written
        if request.body:
            responder.send(200, b"ok", [JSON])
            return
        responder.on_pressure(held.append)
        responder.start(200, [])
        while True:
            responder.write(b"x" * 10_000)
            written += 10_000
            await responder.drain()

    async with opened(House(endless), drain_s=0) as running, wired(running) as (_, slow):
        slow.write(post())
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.2)
        assert 0 < written < 20_000_000 and held[0] is True
        async with wired(running) as (reader, writer), asyncio.timeout(5):
            writer.write(post(b"x"))
            assert (await answer(reader))[2] == b"ok"


async def test_a_client_that_takes_nothing_for_too_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.2)
    monkeypatch.setattr(server, "SWEEP_S", 0.05)
    ended = asyncio.Event()

    async def endless(_: Request, responder: Responder) -> None:
        responder.start(200, [])
        try:
            while True:
                responder.write(b"x" * 100_000)
                await responder.drain()
                await asyncio.sleep(0)
        finally:
            ended.set()

    async with opened(House(endless)) as running, wired(running) as (_, writer):
        writer.write(post())
        async with asyncio.timeout(5):
            await ended.wait()


async def test_an_end_finishes_what_is_under_way_and_says_close() -> None:
    started = asyncio.Event()

    async def slow(_: Request, responder: Responder) -> None:
        started.set()
        await asyncio.sleep(0.2)
        responder.send(200, b"whole", [JSON])

    async with opened(House(slow)) as running, wired(running) as (reader, writer), wired(running) as idle:
        writer.write(post())
        await started.wait()
        stopping = asyncio.ensure_future(running.stop())
        _, headers, body = await answer(reader)
        assert (headers["connection"], body) == ("close", b"whole")
        assert await idle[0].read() == b""
        await stopping
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", running.port)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_however_the_bytes_arrive_the_requests_are_the_same(bodies: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(post(body) for body in bodies)
    edges = sorted({0, len(sent), *(cut % len(sent) for cut in cuts)})

    async def main() -> None:
        house = House()
        async with opened(house) as running, wired(running) as (reader, writer):
            for start, end in itertools.pairwise(edges):
                writer.write(sent[start:end])
                await asyncio.sleep(0)
            for body in bodies:
                assert (await answer(reader))[2] == b"POST /v1/x " + body
        assert [each.body for each in house.requests] == bodies

    asyncio.run(main())


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nhost: h\r\n"])
)
def test_no_bytes_make_the_server_stop(junk: bytes, start: bytes) -> None:
    async def main() -> None:
        async with opened(House(), drain_s=0) as running:
            async with wired(running) as (_, writer):
                writer.write(start + junk)
                await asyncio.sleep(0.002)
            async with wired(running) as (reader, writer), asyncio.timeout(5):
                writer.write(post(b"after"))
                assert (await answer(reader))[2] == b"POST /v1/x after"

    asyncio.run(main())
