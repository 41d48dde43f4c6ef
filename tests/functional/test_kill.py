"""A gateway that is killed at any point: what a client received in full is in the ledger.

A few points here; `make soak` takes a thousand (DUTCHDOOR_SOAK says how many).
"""

import asyncio
import contextlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil
import pytest

from dutchdoor.ledger.database import connect
from tests.fakes.postgres import Postgres, postgres  # noqa: F401 - a fixture
from tests.fakes.upstream import Reply, Upstream
from tests.functional.server import Serving, serving

POINTS = int(os.environ.get("DUTCHDOOR_SOAK", "8"))
CLIENTS = 12
COST = 7 * 1000 + 4 * 3000  # nano-dollars of one answer of the fake upstream
ROUTES = """\
kind: dutchdoor/routes@1
targets:
  t: {{url: "{url}", model: big, price: {{input: 1, output: 3}}}}
routes:
  m: [t]
"""
# What a server must not be: a commit is put off until the next transaction begins, and acknowledged before it.
ACKNOWLEDGED_TOO_EARLY = """\
import time
from dutchdoor.ledger.sqlite import Sqlite

def begin(self, *, alone=False):
    if self._connection.in_transaction:
        time.sleep(0.02)
        self._connection.execute("COMMIT")
    self._connection.execute("BEGIN IMMEDIATE")

Sqlite.begin = begin
Sqlite.commit = lambda self: None
"""


class Client:
    """Asks without a pause, whole and streamed, and remembers what it received to the end."""

    def __init__(self, url: str, key: str, draw: random.Random, *, comes_back: bool) -> None:
        self.url = url
        self.headers = {"authorization": f"Bearer {key}"}
        self.draw = draw
        self.comes_back = comes_back
        self.received: list[str] = []
        self.begun = 0

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    while True:
                        await self.ask(http)
                if not self.comes_back:
                    return

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


class Place:
    """A folder with a routes file, and a ledger in it or at a URL, over several lives of a server."""

    def __init__(self, folder: Path, ledger: str | None = None, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.env = {**os.environ, **(env or {})} | ({} if ledger is None else {"DUTCHDOOR_LEDGER": ledger})
        self.ledger = ledger or folder / ".dutchdoor" / "ledger.sqlite3"
        self.key = ""
        self.received: set[str] = set()
        self.begun = 0

    def kill_once(
        self,
        draw: random.Random,
        *options: str,
        kill: Callable[[Serving], None] = lambda server: server.process.kill(),
        goes_on_s: float = 0.0,
    ) -> None:
        """Serve under load and kill at a random moment; where the server goes on, it is ended in peace."""
        asyncio.run(self._kill_once(draw, options, kill, goes_on_s))

    async def _kill_once(
        self, draw: random.Random, options: tuple[str, ...], kill: Callable[[Serving], None], goes_on_s: float
    ) -> None:
        upstream = Upstream(
            script=lambda _: Reply(
                text="a b c d", delay_s=draw.random() * 0.01, pause_s=draw.random() * 0.004
            )
        )
        async with upstream:
            (self.folder / "routes.yaml").write_text(ROUTES.format(url=upstream.url))
            opening = serving("routes.yaml", "--quiet", *options, cwd=self.folder, env=self.env)
            server = await asyncio.to_thread(opening.__enter__)
            try:
                if not self.key:
                    self.key = (await asyncio.to_thread(self._make_key, server))["key"]
                clients = [
                    Client(server.url, self.key, draw, comes_back=bool(goes_on_s)) for _ in range(CLIENTS)
                ]
                tasks = [asyncio.ensure_future(client.run()) for client in clients]
                await asyncio.sleep(0.02 + draw.random() * 0.3)
                kill(server)
                if goes_on_s:
                    before = sum(len(client.received) for client in clients)
                    await asyncio.sleep(goes_on_s)
                    assert sum(len(client.received) for client in clients) > before + CLIENTS
                    for client in clients:
                        client.comes_back = False
                    server.process.terminate()
                await asyncio.gather(*tasks)
                await asyncio.to_thread(server.process.wait, 60)
            finally:
                await asyncio.to_thread(opening.__exit__, None, None, None)
        self.received |= {each for client in clients for each in client.received}
        self.begun += sum(client.begun for client in clients)

    def _make_key(self, server: Serving) -> dict[str, str]:
        options = [] if isinstance(self.ledger, Path) else ["--ledger", self.ledger]
        server.shown = server.shown.replace(' --ledger "$DUTCHDOOR_LEDGER"', "")
        made: dict[str, str] = server.key("--budget", "100", *options)
        return made

    def rows(self, query: str) -> list[tuple[object, ...]]:
        db = connect(self.ledger)
        try:
            return [tuple(row.values()) for row in db.rows(query)]
        finally:
            db.close()

    def missing(self) -> set[str]:
        """What was received and is not booked as such."""
        booked = {row[0] for row in self.rows("SELECT id FROM usage WHERE state = 'finished'")}
        return self.received - {str(each) for each in booked}

    def balances(self) -> None:
        """After the next start everything is closed, and adds up."""
        with serving("routes.yaml", "--quiet", cwd=self.folder, env=self.env) as server:
            server.stop()
        assert not self.missing()
        states = {
            str(state): count
            for state, count in self.rows("SELECT state, count(*) FROM usage GROUP BY state")
        }
        assert set(states) <= {"finished", "interrupted", "left", "failed", "broken"}
        assert int(str(states["interrupted"])) > 0  # the kill met requests that were under way
        assert self.rows("SELECT count(*) FROM reservations") == [(0,)]
        ((spent, held),) = self.rows("SELECT sum(spent) AS spent, sum(held) AS held FROM spend")
        ((charged,),) = self.rows("SELECT sum(nanodollars) FROM usage")
        assert (spent, held) == (charged, 0)
        assert self.rows("SELECT count(*) FROM usage WHERE state = 'interrupted' AND nanodollars > 0") == [
            (0,)
        ]
        assert self.rows("SELECT DISTINCT nanodollars FROM usage WHERE state = 'finished'") == [(COST,)]


def test_whatever_a_client_received_in_full_is_in_the_ledger(tmp_path: Path) -> None:
    draw = random.Random(11)
    place = Place(tmp_path)
    for point in range(POINTS):
        place.kill_once(draw)
        assert not place.missing(), f"point {point}"
    assert len(place.received) > 5 * POINTS and place.begun > len(place.received)
    place.balances()


def test_a_server_that_acknowledges_before_it_commits_is_found_out(tmp_path: Path) -> None:
    draw = random.Random(12)
    (tmp_path / "sitecustomize.py").write_text(ACKNOWLEDGED_TOO_EARLY)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    place = Place(tmp_path)
    place.kill_once(draw)  # makes the key, with all in order
    place.env["PYTHONPATH"] = path
    for _ in range(8):
        place.kill_once(draw)
        if place.missing():
            return
    pytest.fail("nothing was missing")


def test_on_postgresql_too(tmp_path: Path, postgres: Postgres) -> None:  # noqa: F811
    draw = random.Random(13)
    place = Place(tmp_path, postgres.url())
    for point in range(max(3, POINTS // 10)):
        place.kill_once(draw)
        assert not place.missing(), f"point {point}"
    place.balances()


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_one_of_two_workers_is_killed_and_the_other_serves_on(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    draw = random.Random(14)
    url = request.getfixturevalue("postgres").url() if where == "postgresql" else None
    place = Place(tmp_path, url)

    def kill(server: Serving) -> None:
        draw.choice(psutil.Process(server.process.pid).children()).kill()

    for point in range(2):
        place.kill_once(draw, "--workers", "2", kill=kill, goes_on_s=1.2)
        assert not place.missing(), f"point {point}"
    place.balances()
