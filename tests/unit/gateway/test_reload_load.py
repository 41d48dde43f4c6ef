"""A swap in a running gateway, asked over real HTTP: nothing that is under way is lost, and the next request
goes where the file says.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.protocol.server import GatewayServer
from dutchdoor.gateway.routing.opening import Opener, RoutesSource
from dutchdoor.gateway.routing.reload import Reloader
from dutchdoor.gateway.routing.swap import swap_route
from dutchdoor.ledger import Ledger
from dutchdoor.ledger.runs import Run
from tests.fakes.upstream import Reply, Upstream
from tests.unit.gateway.conftest import HELLO

ROUTES = """\
kind: dutchdoor/routes@1
targets:
  a: {{url: "{a}", model: m, price: {{input: 1, output: 3}}}}
  b: {{url: "{b}", model: m, price: {{input: 1, output: 3}}, can: {{logprobs: false, context: 4096}}}}
routes:
  m: [a]
"""


@dataclass
class Live:
    """A gateway that watches its routes file."""

    path: Path
    serving: Path
    url: str
    headers: dict[str, str]
    http: aiohttp.ClientSession

    async def ask(self, **more: Any) -> tuple[int, str, str]:
        """Status, target and text of an answer."""
        async with self.http.post(
            self.url + "/chat/completions", json={**HELLO, **more}, headers=self.headers
        ) as response:
            text = await response.text()
            return response.status, response.headers.get("x-dutchdoor-target", ""), text


@contextlib.asynccontextmanager
async def live(folder: Path, a: str, b: str) -> AsyncIterator[Live]:
    path = folder / "routes.yaml"
    path.write_text(ROUTES.format(a=a, b=b))
    ledger = await Ledger.open_in(folder / "data")
    key = (await ledger.create_key("test")).key
    reloader = Reloader(RoutesSource(path, Opener(folder / "data")))
    gateway = Gateway(ledger, (await reloader.first()).routes.values())
    server = GatewayServer(gateway, port=0, drain_s=2)
    await server.start()
    run = Run(folder / "runs")
    reloader.start(gateway, report=run.write, base_url=server.base_url)
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with aiohttp.ClientSession() as http:
            yield Live(path, folder / "runs", server.base_url, headers, http)
    finally:
        await reloader.stop()
        await server.stop()
        run.release()


async def test_no_request_is_lost_while_routes_are_swapped(tmp_path: Path) -> None:
    reply = Reply(pause_s=0.005, delay_s=0.002)
    async with Upstream(reply) as a, Upstream(reply) as b, live(tmp_path, a.url, b.url) as desk:
        going, answers = True, []

        async def client(stream: bool) -> None:
            while going:
                answers.append((stream, *await desk.ask(stream=stream)))

        clients = [asyncio.create_task(client(stream=index % 2 == 0)) for index in range(16)]
        for name in ("b", "a", "b", "a", "b"):
            done = await swap_route(desk.path, "m", [name], desk.serving)
            assert done.workers == 1
            assert (await desk.ask())[:2] == (200, name)  # from the moment it returns
        going = False
        await asyncio.gather(*clients)
        assert len(answers) > 50 and {status for _, status, _, _ in answers} == {200}
        assert {target for _, _, target, _ in answers} == {"a", "b"}
        assert all(text.endswith("data: [DONE]\n\n") for stream, _, _, text in answers if stream)
        assert a.left == b.left == 0


async def test_a_stream_ends_where_it_began(tmp_path: Path) -> None:
    slow = Reply(text="w " * 20, pause_s=0.05)
    async with Upstream(slow) as a, Upstream() as b, live(tmp_path, a.url, b.url) as desk:
        old = asyncio.create_task(desk.ask(stream=True))
        while not a.requests:
            await asyncio.sleep(0.01)
        await swap_route(desk.path, "m", ["b"], desk.serving)
        assert not old.done() and (await desk.ask())[1] == "b"
        status, target, text = await old
        assert (status, target) == (200, "a") and text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("asked", "param"), [({"logprobs": True}, "logprobs"), ({"max_tokens": 5000}, "max_tokens")]
)
async def test_a_request_that_asks_for_more_goes_to_the_next_or_is_refused_by_name(
    tmp_path: Path, asked: dict[str, Any], param: str
) -> None:
    async with Upstream() as a, Upstream() as b, live(tmp_path, a.url, b.url) as desk:
        await swap_route(desk.path, "m", ["b", "a"], desk.serving)
        assert (await desk.ask())[:2] == (200, "b")
        assert (await desk.ask(**asked))[:2] == (200, "a")
        await swap_route(desk.path, "m", ["b"], desk.serving)
        status, _, text = await desk.ask(**asked)
        assert status == 400 and f'"param":"{param}"' in text and "target 'b'" in text
        assert len(b.requests) == 1
