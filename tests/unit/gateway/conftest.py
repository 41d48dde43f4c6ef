"""A gateway in this process over a fake upstream, asked over real HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.contract import stated
from dutchdoor.gateway.protocol.server import GatewayServer
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.targets.http import HttpTarget
from dutchdoor.ledger import Ledger, Price
from dutchdoor.ledger.keys import now
from tests.fakes.upstream import Upstream

PRICE = Price.per_million("1", "3")  # 1,000 and 3,000 nano-dollars a token
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Desk:
    """A running gateway with a key."""

    server: GatewayServer[Gateway]
    ledger: Ledger
    key: str
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.server.base_url

    def ask(self, body: Any = None, *, key: str | None = None, **more: Any) -> Any:
        sent = {**HELLO, **more} if body is None else body
        headers = {"authorization": f"Bearer {key or self.key}", "content-type": "application/json"}
        data = sent if isinstance(sent, bytes) else None
        return self.http.post(
            self.url + "/chat/completions", json=None if data else sent, data=data, headers=headers
        )

    async def rows(self) -> list[dict[str, Any]]:
        found = await self.ledger.read(lambda db: db.rows("SELECT * FROM usage ORDER BY ended, id"))
        return [dict(row) for row in found]

    async def total(self) -> int:
        return (await self.ledger.bill(now().strftime("%Y-%m"))).total_nanodollars


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """What users run on; the protocols on both loops, whose transports differ in small things."""
    both = item.path.name in ("test_protocol.py", "test_client.py")
    return {"uvloop": uvloop.new_event_loop} | ({"asyncio": asyncio.new_event_loop} if both else {})


Opener = Callable[..., contextlib.AbstractAsyncContextManager[Desk]]


@pytest.fixture
def desk(tmp_path: Path) -> Opener:
    """`async with desk(route, …) as d:`"""

    @contextlib.asynccontextmanager
    async def open_desk(*routes: Route, budget: int | None = None) -> AsyncIterator[Desk]:
        ledger = await Ledger.open_in(tmp_path / "data")
        key = (await ledger.create_key("test", budget=budget)).key
        server = GatewayServer(Gateway(ledger, routes), port=0, drain_s=2)
        await server.start()
        async with aiohttp.ClientSession() as http:
            try:
                yield Desk(server, ledger, key, http)
            finally:
                await server.stop()

    return open_desk


def route(*upstreams: Upstream, model: str = "m", **more: Any) -> Route:
    """A route over upstreams.

    `unpriced`, `weights`, `retries` and `deadline_s` go to the route, the rest to the targets.
    """
    routing = {
        name: more.pop(name) for name in ("unpriced", "weights", "retries", "deadline_s") if name in more
    }
    if "can" in more:
        more["can"] = stated(more["can"])
    price = more.pop("price", PRICE)
    targets = tuple(
        HttpTarget(f"t{index}", upstream.url, f"upstream-{index}", price, **more)
        for index, upstream in enumerate(upstreams)
    )
    return Route(model=model, targets=targets, **routing)
