"""A gateway in this process over a fake upstream, asked over real HTTP."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.routing import Route
from dutchdoor.gateway.server import GatewayServer
from dutchdoor.gateway.upstream import HttpTarget
from dutchdoor.ledger import Ledger, Price
from dutchdoor.ledger.keys import now
from tests.fakes.upstream import Upstream

PRICE = Price.per_million("1", "3")  # 1,000 and 3,000 nano-dollars a token
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Desk:
    """A running gateway with a key."""

    server: GatewayServer
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
        found = self.ledger._reader.execute("SELECT * FROM usage ORDER BY ended").fetchall()
        return [dict(row) for row in found]

    async def total(self) -> int:
        return (await self.ledger.bill(now().strftime("%Y-%m"))).total_nanodollars


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

    `price`, `can`, `idle_s`, `system_prompt` go to the targets, `unpriced` to the route.
    """
    unpriced, weights = more.pop("unpriced", False), more.pop("weights", None)
    price = more.pop("price", PRICE)
    targets = tuple(
        HttpTarget(f"t{index}", upstream.url, f"upstream-{index}", price, **more)
        for index, upstream in enumerate(upstreams)
    )
    return Route(model=model, targets=targets, unpriced=unpriced, weights=weights)
