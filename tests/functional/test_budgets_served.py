"""Budgets under a real server: many clients at once overspend nothing, and the bill is what was spent.

Of keys, teams and families; one worker and two; SQLite and PostgreSQL.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dutchdoor.ledger.database import connect
from tests.fakes.models import make_model
from tests.fakes.postgres import Postgres, postgres  # noqa: F401 - a fixture
from tests.fakes.upstream import Reply, Upstream
from tests.functional.server import Serving, dutchdoor, serving

CLIENTS = 100
CAP = 50  # output tokens that each request may have
ROUTES = """\
kind: dutchdoor/routes@1
targets:
  t: {{url: "{url}", model: big, price: {{input: 1, output: 3}}}}
routes:
  m: [t]
"""
FAMILY = """\
kind: dutchdoor/family@1
family: tiny
version: 1.0.0
publisher: {{name: Test}}
members:
  - name: m
    license: Apache-2.0
    variants: [{{id: f32, weights: ./tiny}}]
    serve: {{target: {{url: "{url}", model: there}}}}
    price: {{input: 1, output: 3}}
policies: [policy.yaml]
"""
POLICY = """\
kind: dutchdoor/policy@1
id: size
effective: 2026-11-01
suites: {}
rules:
  - {id: small, gates: api, measure: parameters, at_most: 1e9, because: it is only a test}
"""


class Place:
    """A server, its upstream, and its ledger: a file, or at a URL."""

    def __init__(self, folder: Path, upstream: Upstream, url: str | None) -> None:
        self.folder = folder
        self.upstream = upstream
        self.ledger = url or folder / ".dutchdoor" / "ledger.sqlite3"
        self.env = {**os.environ} | ({} if url is None else {"DUTCHDOOR_LEDGER": url})
        self.server: Serving

    async def command(self, *arguments: str) -> Any:
        """What a command prints."""
        done = await asyncio.to_thread(
            dutchdoor, *arguments, "--format", "json", cwd=self.folder, env=self.env
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def key(self, *options: str) -> str:
        made: str = (await self.command("keys", "create", "--name", "test", *options))["key"]
        return made

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        db = connect(self.ledger)
        try:
            return [tuple(row.values()) for row in db.rows(query)]
        finally:
            db.close()

    async def spend_all(self, keys: list[str]) -> int:
        """Many clients ask until each is told that nothing is left; returns how many answers came."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            clients = [self._client(http, keys[each % len(keys)], each) for each in range(CLIENTS)]
            return sum(await asyncio.gather(*clients))

    async def _client(self, http: aiohttp.ClientSession, key: str, number: int) -> int:
        body = {
            "model": "m",
            "stream": bool(number % 2),
            "max_tokens": CAP,
            "messages": [{"role": "user", "content": "hi"}],
        }
        headers = {"authorization": f"Bearer {key}"}
        answered = refused = 0
        while refused < 2:  # once more: what was held for others may have become free
            async with http.post(
                self.server.url + "/chat/completions", json=body, headers=headers
            ) as response:
                data = await response.read()
            if response.status == 429:
                assert json.loads(data)["error"]["code"] == "insufficient_quota"
                refused += 1
                await asyncio.sleep(0.1)
            else:
                assert response.status == 200, data
                assert not body["stream"] or data.endswith(b"data: [DONE]\n\n")
                answered += 1
                assert answered < 100, "nothing holds the budget"
        return answered

    async def spent_no_more_than(self, budget: int, answered: int, account: str) -> None:
        """Overspend is 0, nothing is held, little is left, and the bill adds up."""
        ((spent, held),) = await asyncio.to_thread(
            self.rows, f"SELECT spent, held FROM spend WHERE account LIKE '{account}%'"
        )
        assert held == 0 and spent <= budget
        ((charged, count, reserved),) = await asyncio.to_thread(
            self.rows,
            "SELECT sum(nanodollars) AS charged, count(*) AS count, max(reserved) AS reserved FROM usage",
        )
        assert (charged, count) == (spent, answered) and spent > budget - reserved
        bill = await self.command("bill")
        assert bill["total_nanodollars"] == spent and bill["interrupted"] == []
        assert sum(line["requests"] for line in bill["lines"]) == answered
        assert len(self.upstream.requests) == answered  # who was refused reached nobody


def varied() -> Callable[[dict[str, Any]], Reply]:
    """Answers of all sizes up to the cap, and now and then one that tells more than it may have."""
    number = 0

    def reply(_: dict[str, Any]) -> Reply:
        nonlocal number
        number += 1
        tokens = 10**7 if number % 20 == 0 else number * 7 % (CAP + 1)
        return Reply(text="a b", input_tokens=9 + number % 5, output_tokens=tokens, delay_s=0.002)

    return reply


@contextlib.asynccontextmanager
async def standing(
    folder: Path, *options: str, url: str | None = None, file: str = ROUTES, reply: Any = None
) -> AsyncIterator[Place]:
    async with Upstream(script=reply or varied()) as upstream:
        name = "family.yaml" if file == FAMILY else "routes.yaml"
        (folder / name).write_text(file.format(url=upstream.url))
        place = Place(folder, upstream, url)
        opening = serving(name, "--quiet", *options, cwd=folder, env=place.env)
        place.server = await asyncio.to_thread(opening.__enter__)
        try:
            yield place
            assert await asyncio.to_thread(place.server.stop) == 0
            assert not any("fault" in line or "Traceback" in line for line in place.server.log)
        finally:
            await asyncio.to_thread(opening.__exit__, None, None, None)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where the ledger is; null: in the folder."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.url()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_hundred_clients_cannot_overspend_the_budget_of_a_key(
    tmp_path: Path, workers: str, url: str | None
) -> None:
    async with standing(tmp_path, "--workers", workers, url=url) as place:
        answered = await place.spend_all([await place.key("--budget", "0.03")])
        await place.spent_no_more_than(30_000_000, answered, "key_")
        assert answered > CLIENTS


async def test_nor_that_of_a_team_with_several_keys(tmp_path: Path, url: str | None) -> None:
    async with standing(tmp_path, "--workers", "2", url=url) as place:
        keys = [await place.key("--team", "red"), await place.key("--team", "red", "--budget", "1")]
        await place.command("budgets", "set", "team:red", "--budget", "0.02")
        answered = await place.spend_all(keys)
        await place.spent_no_more_than(20_000_000, answered, "team:")
        ((of_keys,),) = await asyncio.to_thread(
            place.rows, "SELECT sum(spent) AS spent FROM spend WHERE account LIKE 'key%'"
        )
        ((of_team,),) = await asyncio.to_thread(
            place.rows, "SELECT spent FROM spend WHERE account = 'team:red'"
        )
        assert of_keys == of_team


async def test_nor_that_of_a_family(tmp_path: Path) -> None:
    await asyncio.to_thread(make_model, tmp_path / "tiny", "llama")
    (tmp_path / "policy.yaml").write_text(POLICY)
    async with standing(tmp_path, file=FAMILY) as place:
        keys = [await place.key(), await place.key("--team", "red")]
        await place.command("budgets", "set", "family:tiny", "--budget", "0.02")
        answered = await place.spend_all(keys)
        await place.spent_no_more_than(20_000_000, answered, "family:tiny")


async def test_who_leaves_pays_for_what_was_delivered_and_stops_the_upstream(
    tmp_path: Path, url: str | None
) -> None:
    replies = {
        "long": Reply(text="word " * 10_000, pause_s=0.02),
        "nearly done": Reply(text="a b c d", pause_s=0.1, input_tokens=12, output_tokens=4),
        "whole": Reply(text="a b c d", delay_s=30),
    }

    async with standing(
        tmp_path, url=url, reply=lambda body: replies[body["messages"][0]["content"]]
    ) as place:
        key = await place.key("--budget", "5")

        async def leave_after(pieces: int, said: str) -> tuple[str, int]:
            """Returns the request's id and how many pieces came."""
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": said}]}
            headers = {"authorization": f"Bearer {key}"}
            async with (
                aiohttp.ClientSession() as http,
                http.post(place.server.url + "/chat/completions", json=body, headers=headers) as response,
            ):
                data = b""
                async for piece in response.content.iter_any():
                    data += piece
                    if data.count(b"\n\n") >= pieces:
                        break
                response.close()
                return response.headers["x-request-id"], data.count(b"\n\n")

        async def booked(request: str) -> tuple[Any, ...]:
            for _ in range(200):
                rows = await asyncio.to_thread(
                    place.rows,
                    "SELECT state, counted, input_tokens, output_tokens, nanodollars FROM usage"
                    f" WHERE id = '{request}'",
                )
                if rows:
                    return rows[0]
                await asyncio.sleep(0.02)
            raise AssertionError("it was not booked")

        request, came = await leave_after(5, "long")
        state, counted, input_, output, charged = await booked(request)
        assert (state, counted) == ("left", "relayed") and came <= output <= came + 2
        assert charged == input_ * 1000 + output * 3000
        assert place.upstream.left == 1
        request, _ = await leave_after(3, "nearly done")
        assert await booked(request) == ("left", "reported", 12, 4, 24_000)
        # who leaves before the first byte pays nothing
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3), aiohttp.ClientSession() as http:
                body = {"model": "m", "messages": [{"role": "user", "content": "whole"}]}
                headers = {"authorization": f"Bearer {key}"}
                await http.post(place.server.url + "/chat/completions", json=body, headers=headers)
        for _ in range(100):
            if place.upstream.left == 2:
                break
            await asyncio.sleep(0.02)
        assert place.upstream.left == 2
        ((failed, paid),) = await asyncio.to_thread(
            place.rows,
            "SELECT count(*) AS failed, sum(nanodollars) AS paid FROM usage WHERE state = 'failed'",
        )
        assert (failed, paid) == (1, 0)
        assert await asyncio.to_thread(place.rows, "SELECT sum(held) AS held FROM spend") == [(0,)]
