"""What upstreams do to a gateway, and slow clients: it tells the truth, charges what was delivered, and goes on.

A real server process before scripted upstreams over real HTTP.
"""

import asyncio
import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.fakes.upstream import FLOOD, Reply, Upstream
from tests.functional.server import Serving, serving

HI = [{"role": "user", "content": "hi"}]
MIB = 1 << 20
Script = Reply | Sequence[Reply] | Callable[[dict[str, Any]], Reply] | str  # the last is a URL


class Got:
    """An answer, or as much of it as came before it was cut."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, took_s: float) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.took_s = took_s

    @property
    def id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def target(self) -> str | None:
        return self.headers.get("x-dutchdoor-target")

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error

    @property
    def events(self) -> list[bytes]:
        return [each.removeprefix(b"data: ") for each in self.body.split(b"\n\n") if each]

    @property
    def text(self) -> str:
        parsed = [json.loads(each) for each in self.events if each != b"[DONE]"]
        choices = [choice for each in parsed for choice in each.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


class Place:
    """A server before its upstreams, and a client."""

    def __init__(self, server: Serving, ups: list[Upstream], key: str, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.ups = ups
        self.key = key
        self.http = http

    async def ask(self, model: str = "m", path: str = "/chat/completions", **fields: Any) -> Got:
        body = {"model": model, "messages": HI, **fields}
        began = time.monotonic()
        headers = {"authorization": f"Bearer {self.key}"}
        async with self.http.post(self.server.url + path, json=body, headers=headers) as response:
            told = {name.lower(): value for name, value in response.headers.items()}
            data = bytearray()
            with contextlib.suppress(aiohttp.ClientPayloadError):
                async for piece in response.content.iter_any():
                    data += piece
            return Got(response.status, told, bytes(data), time.monotonic() - began)

    async def slow(self, model: str) -> socket.socket:
        """Asks for a stream on a connection with a small buffer, and then reads nothing."""
        return await asyncio.to_thread(self._slow, model)

    def _slow(self, model: str) -> socket.socket:
        host, _, port = self.server.url.removeprefix("http://").removesuffix("/v1").partition(":")
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        body = json.dumps({"model": model, "messages": HI, "stream": True}).encode()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (self.key.encode(), len(body), body)
        )
        return client

    def booked(self, request: str) -> dict[str, Any]:
        columns = "state, counted, input_tokens, output_tokens, reserved, nanodollars, alarm, target"
        ledger = sqlite3.connect(self.server.cwd / ".dutchdoor" / "ledger.sqlite3")
        try:
            rows = ledger.execute(f"SELECT {columns} FROM usage WHERE id = ?", (request,)).fetchall()
        finally:
            ledger.close()
        assert len(rows) == 1
        return dict(zip(columns.split(", "), rows[0], strict=True))

    def resident(self) -> int:
        return int(psutil.Process(self.server.process.pid).memory_info().rss)


@contextlib.asynccontextmanager
async def standing(
    folder: Path, *scripts: Script, routes: str = "m: [a]", target: str = "timeout_s: 20"
) -> AsyncIterator[Place]:
    """A server whose targets `a`, `b`, … do what the scripts say."""
    async with contextlib.AsyncExitStack() as stack:
        rows, ups = [], []
        for name, script in zip("abcdefghijklmnop", scripts, strict=False):
            url = script
            if not isinstance(url, str):
                several = [script] if isinstance(script, Reply) else script
                up = Upstream(script=script) if callable(script) else Upstream(*several)
                ups.append(await stack.enter_async_context(up))
                url = up.url
            rows.append(f'  {name}: {{url: "{url}", model: m, price: {{input: 1, output: 3}}, {target}}}')
        lines = ["kind: dutchdoor/routes@1", "targets:", *rows, "routes:"]
        lines += [f"  {line.strip()}" for line in routes.splitlines()]
        (folder / "routes.yaml").write_text("\n".join(lines) + "\n")
        opening = serving("routes.yaml", cwd=folder)
        server = await asyncio.to_thread(opening.__enter__)
        try:
            key = (await asyncio.to_thread(server.key, "--budget", "10000"))["key"]
            timeout = aiohttp.ClientTimeout(total=60)
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(
                timeout=timeout, connector=connector, read_bufsize=4 * MIB
            ) as http:
                yield Place(server, ups, key, http)
            assert not any('"event": "fault"' in line or "Traceback" in line for line in server.log)
        finally:
            await asyncio.to_thread(opening.__exit__, None, None, None)


def said(body: dict[str, Any]) -> str:
    content: str = body["messages"][-1]["content"]
    return content


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# -- streams that go wrong, in the middle and before


WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
BAD: dict[str, Reply] = {
    "dies": Reply(text="a b c d", drop_after=2, pause_s=0.02),
    "stalls": Reply(text="a b c d", stall_after=2, pause_s=0.02),
    "fails": Reply(text="a b c d", error_after=2, pause_s=0.02),
    "unfinished": Reply(parts=[WORD, WORD], pause_s=0.02),
    "malformed": Reply(parts=[WORD, WORD, b'data: {"error": {"mess\n\n', b"data: [DONE]\n\n"], pause_s=0.02),
    "half": Reply(parts=[WORD, WORD, b"data: half an eve"], pause_s=0.02),
    "dies first": Reply(drop_after=0),
    "stalls first": Reply(stall_after=0),
    "fails first": Reply(error_after=0),
    "fails at once": Reply(raw=WORD + b'data: {"error": {"message": "sk-secret"}}\n\n'),
    "page": Reply(raw=b"<html><body>It works!</body></html>\n\n"),
    "nothing": Reply(raw=b""),
    "done first": Reply(raw=b"data: [DONE]\n\n"),
    "well": Reply(text="a b"),  # keeps the breaker closed
}
LATE = ["dies", "stalls", "fails", "unfinished", "malformed", "half"]
EARLY = [name for name in BAD if name not in (*LATE, "well")]


async def test_a_stream_that_goes_wrong(tmp_path: Path) -> None:
    """After its first byte it ends in an error and nobody else is asked; before that the next target answers."""
    async with standing(
        tmp_path,
        lambda body: BAD[said(body)],
        lambda _: Reply(text="from b"),
        routes="m: {to: [a, b], retries: 0}",
        target="timeout_s: 0.4",
    ) as place:
        for path in ("/chat/completions", "/messages", "/responses"):
            for name in LATE:
                fields: dict[str, Any] = {"messages": turn(name), "stream": True}
                if path == "/responses":
                    fields = {"input": name, "stream": True, "messages": None}
                if path == "/messages":
                    fields["max_tokens"] = 50
                asked = len(place.ups[1].requests)
                got = await place.ask(path=path, **fields)
                assert (got.status, got.target) == (200, "a"), (path, name)
                assert b"broke off" in got.body and b"[DONE]" not in got.body, (path, name)
                assert b"secret" not in got.body and b"127.0.0.1" not in got.body
                booked = place.booked(got.id)
                assert (booked["state"], booked["counted"]) == ("broken", "relayed"), (path, name)
                assert booked["output_tokens"] == 2, name
                assert booked["nanodollars"] == booked["input_tokens"] * 1000 + booked["output_tokens"] * 3000
                assert len(place.ups[1].requests) == asked
                await place.ask(messages=turn("well"), stream=True)
                if path == "/chat/completions":
                    assert json.loads(got.events[-1])["error"]["code"] == "stream_broken"
        for name in EARLY:
            await place.ask(messages=turn("well"), stream=True)
            got = await place.ask(messages=turn(name), stream=True)
            assert (got.status, got.target, got.text) == (200, "b", "from b"), name
            assert place.booked(got.id)["target"] == "b"
        assert place.ups[0].left >= 3  # those that stalled were stopped


async def test_a_target_that_only_begins_streams_is_left_out(tmp_path: Path) -> None:
    """Five broken streams in a row shut a target out."""
    async with standing(
        tmp_path,
        lambda body: BAD[said(body)],
        lambda _: Reply(text="from b"),
        routes="m: {to: [a, b], retries: 0}",
        target="timeout_s: 0.4",
    ) as place:
        for names in (["dies"] * 4 + ["well"], ["dies"] * 5):
            for name in names:
                assert (await place.ask(messages=turn(name), stream=True)).target == "a"
        got = await place.ask(messages=turn("well"), stream=True)
        assert (got.target, got.text) == ("b", "from b")


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n'


async def test_a_stream_that_ends_in_its_own_way_is_still_whole(tmp_path: Path) -> None:
    """No end marker, no last line break, all in one piece, other line breaks, comments, silence after the end."""
    whole = WORD + END + USAGE
    ways: dict[str, list[bytes]] = {
        "no marker": [WORD, END, USAGE],
        "no marker, one piece": [whole],
        "marker without a line break": [whole + b"data: [DONE]"],
        "last event without a line break": [whole.rstrip()],
        "half of a line break": [whole[:-1]],
        "carriage returns": [whole.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n"],
        "byte by byte": [b"%c" % each for each in whole + b"data: [DONE]\n\n"],
        "comments": [b": thinking\n\n", b": still\n\n" + whole, b": done\n\ndata: [DONE]\n\n"],
        "more after the end": [whole + b"data: [DONE]\n\n" + WORD],
    }
    async with standing(
        tmp_path, lambda body: Reply(parts=ways[said(body)], pause_s=0.001), routes="m: {to: [a], retries: 0}"
    ) as place:
        for name in ways:
            for path in ("/chat/completions", "/messages", "/responses"):
                fields: dict[str, Any] = {"messages": turn(name), "stream": True}
                if path == "/responses":
                    fields = {"input": name, "stream": True, "messages": None}
                if path == "/messages":
                    fields["max_tokens"] = 50
                got = await place.ask(path=path, **fields)
                assert got.status == 200 and b"broke off" not in got.body, (name, path)
                booked = place.booked(got.id)
                assert (booked["state"], booked["counted"], booked["nanodollars"]) == (
                    "finished",
                    "reported",
                    8000,
                ), (name, path)
                if path == "/chat/completions":
                    body = got.body.replace(b"\r\n", b"\n").replace(b": thinking\n\n", b"")
                    body = body.replace(b": still\n\n", b"").replace(b": done\n\n", b"")
                    assert body == WORD + END + b"data: [DONE]\n\n", name


async def test_a_whole_answer_that_goes_wrong(tmp_path: Path) -> None:
    bad = {
        "dies": Reply(drop_after=0),
        "stalls": Reply(stall_after=0),
        "page": Reply(raw=b"<html>"),
        "empty": Reply(raw=b'{"choices": []}'),
        "error": Reply(raw=b'{"error": {"message": "sk-secret"}}'),
    }
    async with standing(
        tmp_path,
        lambda body: bad.get(said(body), Reply()),
        lambda _: Reply(text="from b"),
        routes="m: {to: [a, b], retries: 0}\nalone: {to: [a], retries: 0}",
        target="timeout_s: 0.4",
    ) as place:
        for name in bad:
            got = await place.ask(messages=turn(name))
            assert (got.status, got.target) == (200, "b"), name
            assert place.booked(got.id)["target"] == "b"
            assert (await place.ask("alone")).status == 200  # for the breaker
            alone = await place.ask("alone", messages=turn(name))
            assert (alone.status, alone.error["code"]) == (
                504 if name == "stalls" else 502,
                "no_target_answered",
            )
            assert b"secret" not in alone.body
            assert place.booked(alone.id)["state"] == "failed"
            assert place.booked(alone.id)["nanodollars"] == 0


async def test_the_deadline_of_a_route_holds_for_the_whole_and_for_a_stream(tmp_path: Path) -> None:
    async with standing(
        tmp_path,
        lambda body: Reply(stall_after=0) if said(body) == "never" else Reply(text="a " * 50, pause_s=0.1),
        routes="m: {to: [a], deadline_s: 0.8}",
    ) as place:
        never, drip = await asyncio.gather(
            place.ask(messages=turn("never")), place.ask(messages=turn("slowly"), stream=True)
        )
        assert never.status == 504 and 0.7 < never.took_s < 2.5
        assert drip.status == 200 and b"stream_broken" in drip.body and 0.7 < drip.took_s < 2.5
        assert place.booked(drip.id)["state"] == "broken"


ANSWER = (
    b'{"choices":[{"index":0,"message":{"content":"a"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}'
)
LENGTH = b"content-length: %d\r\n\r\n" % len(ANSWER)
RAW: dict[str, list[bytes]] = {  # pieces with a pause between them, then the connection is closed
    "http/1.0": [b"HTTP/1.0 200 OK\r\n\r\n" + ANSWER[:20], ANSWER[20:]],
    "no length": [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", ANSWER],
    "kept, then closed": [b"HTTP/1.1 200 OK\r\n" + LENGTH + ANSWER],
    "notices": [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + LENGTH + ANSWER,
    ],
    "in drips": [
        b"HT",
        b"TP/1.1 200 O",
        b"K\r\nX-A: b\r",
        b"\n" + LENGTH[:5],
        LENGTH[5:] + ANSWER[:1],
        ANSWER[1:],
    ],
    "twice": [b"HTTP/1.1 200 OK\r\n" + LENGTH + ANSWER + b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n"],
    "chunked": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n" % (len(ANSWER), ANSWER),
        b"0\r\ntrailer: a\r\n\r\n",
    ],
    "BAD: no http": [b"SSH-2.0-OpenSSH_9.6\r\n"],
    "BAD: cut in the headers": [b"HTTP/1.1 200 OK\r\ncontent-le"],
    "BAD: cut in the body": [b"HTTP/1.1 200 OK\r\n" + LENGTH + ANSWER[:-1]],
    "BAD: cut in a chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n" + ANSWER],
    "BAD: cut between chunks": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(ANSWER), ANSWER)
    ],
    "BAD: no chunk": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" + ANSWER],
    "BAD: headers without an end": [b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 10_000],
    "BAD: closed": [],
    "BAD: elsewhere": [b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n"],
    "BAD: compressed": [b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n" + LENGTH + ANSWER],
}


async def test_whatever_http_an_upstream_speaks(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(int(length.partition(b":")[2])))
            for piece in RAW[said(body)]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()

    raw = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{raw.sockets[0].getsockname()[1]}/v1"
    async with raw, standing(tmp_path, url, Reply(text="b"), routes="m: {to: [a, b], retries: 0}") as place:
        for name in RAW:
            for _ in range(2):  # the second time a kept connection may be gone
                got = await place.ask(messages=turn(name))
                assert (got.status, got.target) == (200, "b" if name.startswith("BAD") else "a"), name
            assert got.target == "b" or got.body == ANSWER
            await place.ask(messages=turn("http/1.0"))  # one that answers, for the breaker


# -- what was used


async def test_usage_is_charged_as_told_at_most_as_reserved_or_counted(tmp_path: Path) -> None:
    replies = {
        "more": Reply(text="a b", output_tokens=10**6),
        "absurd": Reply(text="a b", output_tokens=10**15),
        "negative": Reply(text="a b", output_tokens=-5),
        "untold": Reply(text="one two three four", usage=False),
        "undone": Reply(text="a b c", done=False),
    }
    async with standing(tmp_path, lambda body: replies[said(body)]) as place:
        for stream in (False, True):
            got = await place.ask(messages=turn("more"), stream=stream, max_tokens=20)
            booked = place.booked(got.id)
            assert got.status == 200 and booked["nanodollars"] == booked["reserved"] > 0
            assert booked["output_tokens"] == 10**6 and "were reserved" in booked["alarm"]
            for name in ("absurd", "negative"):  # no counts: as if nothing had been told
                booked = place.booked((await place.ask(messages=turn(name), stream=stream)).id)
                assert booked["counted"] == "relayed" and 0 < booked["nanodollars"] < booked["reserved"]
            untold = place.booked((await place.ask(messages=turn("untold"), stream=stream)).id)
            assert (untold["state"], untold["counted"]) == ("finished", "relayed")
            # a stream by its pieces, a whole answer by its bytes
            assert untold["output_tokens"] == (4 if stream else 5) and untold["alarm"] is None
        undone = await place.ask(messages=turn("undone"), stream=True)
        assert undone.text == "a b c" and undone.events[-1] == b"[DONE]"
        assert place.booked(undone.id)["state"] == "finished"


# -- targets that are busy or ill


async def test_a_busy_target_is_waited_for_or_told(tmp_path: Path) -> None:
    soon, late = {"retry-after": "1"}, {"retry-after": "600"}
    async with standing(
        tmp_path,
        [Reply(status=429, headers=soon), Reply(text="after a while")],
        Reply(status=429, headers=late),
        Reply(text="from c"),
        routes="m: [a]\nlate: [b]\nnext: [b, c]\nimpatient: {to: [b], retries: 0}",
    ) as place:
        waited = await place.ask()
        assert waited.status == 200 and 1.0 <= waited.took_s < 3 and len(place.ups[0].requests) == 2
        told = await place.ask("late", stream=True)
        assert (told.status, told.headers["retry-after"]) == (429, "600") and told.took_s < 1
        assert told.error["code"] == "busy" and len(place.ups[1].requests) == 1
        assert (await place.ask("next")).target == "c"
        many = [await place.ask("impatient") for _ in range(8)]  # a busy target is not an ill one
        assert [each.status for each in many] == [429] * 8 and len(place.ups[1].requests) == 10


async def test_a_target_that_fails_is_left_out_for_a_while_and_taken_back(tmp_path: Path) -> None:
    ill = True
    async with standing(
        tmp_path,
        lambda _: Reply(status=500) if ill else Reply(text="from a"),
        lambda _: Reply(text="from b"),
        routes="m: {to: [a, b], retries: 0}\nalone: {to: [a], retries: 0}",
    ) as place:
        for _ in range(12):
            assert (await place.ask()).target == "b"
        assert len(place.ups[0].requests) == 5  # from then on it is not asked
        alone = await place.ask("alone")
        assert alone.status == 503 and 1 <= int(alone.headers["retry-after"]) <= 2
        ill = False
        assert (await place.ask()).target == "b"  # its pause is not over
        await asyncio.sleep(2.1)
        assert [(await place.ask()).target for _ in range(3)] == ["a"] * 3


async def test_tries_again_are_a_share_of_the_requests(tmp_path: Path) -> None:
    async with standing(
        tmp_path,
        lambda body: Reply(status=503) if said(body) == "hi" else Reply(),
        routes="m: {to: [a], retries: 3}",
    ) as place:

        async def one() -> None:
            await place.ask(messages=turn("well"))  # keeps the breaker closed
            assert (await place.ask()).status in (502, 503)

        for _ in range(20):
            await one()
        failing = sum(each.body["messages"] == HI for each in place.ups[0].requests)
        assert 20 + 14 <= failing <= 20 + 10 + 0.2 * 40  # what was saved up, and a fifth of all requests


async def test_weights_draw_and_zero_only_stands_in(tmp_path: Path) -> None:
    dead = False

    def a(_: dict[str, Any]) -> Reply:
        return Reply(status=500) if dead else Reply()

    async with standing(
        tmp_path, a, a, lambda _: Reply(), routes="m: {to: {a: 80, b: 20, c: 0}, retries: 0}"
    ) as place:
        drawn = [(await place.ask()).target for _ in range(200)]
        assert 130 <= drawn.count("a") <= 185 and drawn.count("a") + drawn.count("b") == 200
        dead = True
        assert {(await place.ask()).target for _ in range(4)} == {"c"}


# -- large and slow


async def test_pieces_of_ten_megabytes_and_whole_answers_of_thirty(tmp_path: Path) -> None:
    large = "x" * (10 * MIB)
    replies = {
        "pieces": Reply(text=f"{large} {large} end", output_tokens=5),
        "whole": Reply(text="y" * (30 * MIB), output_tokens=5),
        "flood": Reply(text="", flood=20 * MIB, output_tokens=5),
    }
    async with standing(tmp_path, lambda body: replies[said(body)]) as place:
        pieces = await place.ask(messages=turn("pieces"), stream=True)
        assert len(pieces.text) == 20 * MIB + 5 and pieces.text.endswith("x end")
        assert pieces.events[-1] == b"[DONE]" and place.booked(pieces.id)["state"] == "finished"
        whole = await place.ask(messages=turn("whole"))
        assert whole.status == 200 and len(whole.body) > 30 * MIB
        assert place.booked(whole.id)["output_tokens"] == 5
        flood = await place.ask(messages=turn("flood"), stream=True)
        assert len(flood.text) == 20 * MIB // FLOOD * FLOOD and flood.events[-1] == b"[DONE]"
        translated = await place.ask(path="/messages", messages=turn("flood"), stream=True, max_tokens=50)
        assert (
            translated.body.count(b"text_delta") == 20 * MIB // FLOOD and b"message_stop" in translated.body
        )


async def test_slow_readers_slow_nobody_and_hold_little_memory(tmp_path: Path) -> None:
    replies = {"hi": Reply(text="", flood=50 * MIB), "quick": Reply(text="a b c d e f g h", pause_s=0.002)}
    async with standing(tmp_path, lambda body: replies[said(body)]) as place:

        async def others() -> float:
            """The 99th hundredth of what 50 at a time take, in seconds; the better of two rounds."""

            async def client() -> list[float]:
                return [(await place.ask(messages=turn("quick"), stream=True)).took_s for _ in range(4)]

            rounds = []
            for _ in range(2):
                took = sorted(
                    each for one in await asyncio.gather(*(client() for _ in range(50))) for each in one
                )
                rounds.append(took[int(len(took) * 0.99)])
            return min(rounds)

        await others()
        alone = await others()
        before = place.resident()
        slow = [await place.slow("m") for _ in range(20)]
        try:
            await asyncio.sleep(1.0)
            beside = await others()
            grown = place.resident() - before
            print(
                f"p99 {alone * 1000:.0f} ms alone, {beside * 1000:.0f} ms beside slow ones; {grown / MIB:.1f} MiB"
            )
            assert grown < 40 * MIB  # of a thousand that they ask for
            assert beside < 2 * alone + 0.05
        finally:
            for each in slow:
                each.close()
        for _ in range(100):
            if place.ups[0].left == 20:
                break
            await asyncio.sleep(0.05)
        assert place.ups[0].left == 20  # who leaves stops the upstream


# -- contract


async def test_what_no_target_can_is_refused_by_name(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with standing(
        tmp_path, Reply(), Reply(), routes="m: [a, b]\nalone: [a]", target="can: {tools: false}"
    ) as place:
        text = (tmp_path / "routes.yaml").read_text()
        refused = await place.ask(tools=tools)
        assert (refused.status, refused.error["param"]) == (400, "tools")
        lines = [
            line.replace("tools: false", "tools: true") if line.startswith("  b:") else line
            for line in text.splitlines()
        ]
        (tmp_path / "routes.yaml").write_text("\n".join(lines) + "\n")
        place.server.process.send_signal(1)  # SIGHUP
        for _ in range(100):
            got = await place.ask(tools=tools)
            if got.status == 200:
                break
            await asyncio.sleep(0.05)
        assert (got.status, got.target) == (200, "b")
        assert (await place.ask()).target == "a"
        assert (await place.ask("alone", tools=tools)).error["param"] == "tools"
        assert len(place.ups[0].requests) == 1
