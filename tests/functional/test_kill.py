"""A gateway that is killed at any point: what a client received in full is in the ledger.

A few points here; `make soak` takes a thousand (DUTCHDOOR_SOAK says how many).
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
from pathlib import Path

import aiohttp

from tests.fakes.upstream import Reply, Upstream
from tests.functional.server import serving

POINTS = int(os.environ.get("DUTCHDOOR_SOAK", "8"))
CLIENTS = 12
ROUTES = """\
kind: dutchdoor/routes@1
targets:
  t: {{url: "{url}", model: big, price: {{input: 1, output: 3}}}}
routes:
  m: [t]
"""


class Client:
    """Asks without a pause, whole and streamed, and remembers what it received to the end."""

    def __init__(self, url: str, key: str, draw: random.Random) -> None:
        self.url = url
        self.headers = {"authorization": f"Bearer {key}"}
        self.draw = draw
        self.received: list[str] = []
        self.begun = 0

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                while True:
                    await self.ask(http)

    async def ask(self, http: aiohttp.ClientSession) -> None:
        stream = self.draw.random() < 0.5
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
        self.begun += 1
        async with http.post(self.url + "/chat/completions", json=body, headers=self.headers) as response:
            data = await response.read()
            assert response.status == 200, data
            whole = b"[DONE]" in data if stream else json.loads(data)["usage"]["completion_tokens"] == 4
            assert whole, data
            self.received.append(response.headers["x-request-id"])


def script(draw: random.Random) -> Upstream:
    return Upstream(
        script=lambda _: Reply(text="a b c d", delay_s=draw.random() * 0.01, pause_s=draw.random() * 0.004)
    )


def kill_once(folder: Path, key: list[str], draw: random.Random) -> tuple[list[str], int]:
    """Serve under load, kill at a random moment; returns the ids received in full and how many were begun."""

    async def main() -> tuple[list[str], int]:
        async with script(draw) as upstream:
            (folder / "routes.yaml").write_text(ROUTES.format(url=upstream.url))
            opening = serving("routes.yaml", cwd=folder)
            server = await asyncio.to_thread(opening.__enter__)
            try:
                if not key:
                    key.append((await asyncio.to_thread(server.key, "--budget", "100"))["key"])
                clients = [Client(server.url, key[0], draw) for _ in range(CLIENTS)]
                tasks = [asyncio.ensure_future(client.run()) for client in clients]
                await asyncio.sleep(0.02 + draw.random() * 0.3)
                await asyncio.to_thread(server.stop, signal.SIGKILL)
                await asyncio.gather(*tasks)
            finally:
                await asyncio.to_thread(opening.__exit__, None, None, None)
            return [each for client in clients for each in client.received], sum(c.begun for c in clients)

    return asyncio.run(main())


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / ".dutchdoor" / "ledger.sqlite3")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_whatever_a_client_received_in_full_is_in_the_ledger(tmp_path: Path) -> None:
    draw = random.Random(11)
    key: list[str] = []
    received: set[str] = set()
    begun = 0
    for point in range(POINTS):
        got, asked = kill_once(tmp_path, key, draw)
        received |= set(got)
        begun += asked
        booked = dict(rows(tmp_path, "SELECT id, state FROM usage WHERE state = 'finished'"))
        assert received <= set(booked), f"point {point}: {received - set(booked)}"
    with serving("routes.yaml", cwd=tmp_path) as server:  # closes what the last one left open
        server.stop()
    assert len(received) > 5 * POINTS and begun > len(received)
    states = dict(rows(tmp_path, "SELECT state, count(*) FROM usage GROUP BY state"))
    assert set(states) <= {"finished", "interrupted", "left", "failed", "broken"}
    assert states["interrupted"] > 0  # the kill met requests that were under way
    assert rows(tmp_path, "SELECT count(*) FROM reservations") == [(0,)]
    spent, held = rows(tmp_path, "SELECT sum(spent), sum(held) FROM spend WHERE key IS NOT NULL")[0]
    charged = rows(tmp_path, "SELECT sum(nanodollars) FROM usage")[0][0]
    assert (spent, held) == (charged, 0)
    assert rows(tmp_path, "SELECT count(*) FROM usage WHERE state = 'interrupted' AND nanodollars > 0") == [
        (0,)
    ]
    per_request = rows(tmp_path, "SELECT DISTINCT nanodollars FROM usage WHERE state = 'finished'")
    assert per_request == [(7 * 1000 + 4 * 3000,)]
