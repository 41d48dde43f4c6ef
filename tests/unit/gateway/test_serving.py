"""Members of a family through real engines: what is open is served, whatever its tier; what is held is nowhere."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from dutchdoor.core import Channel, EngineError, Tier
from dutchdoor.engines.load import open_engine
from dutchdoor.family.load import load_family
from dutchdoor.gateway.protocol.server import GatewayServer
from dutchdoor.gateway.routing.build import build_from_family
from dutchdoor.gateway.routing.family import served_members
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.targets.engine import EngineTarget
from dutchdoor.gateway.targets.http import HttpTarget
from dutchdoor.ledger import Price
from dutchdoor.policy.decision import ChannelDecision, Decision, MemberDecision
from tests.fakes.models import make_model
from tests.fakes.upstream import Reply, Upstream
from tests.unit.gateway.conftest import HELLO, Desk, Opener

FAMILY = """\
kind: dutchdoor/family@1
family: f
version: 1.0.0
publisher: {name: Test}
members:
  - {name: small, license: MIT, variants: [{id: a, weights: tiny}], price: {input: 1, output: 3}}
  - {name: large, license: MIT, variants: [{id: a, weights: tiny}], price: {input: 1, output: 3}}
  - {name: held, license: MIT, variants: [{id: a, weights: tiny}]}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "llama")


def decision(**tiers: Tier) -> Decision:
    def channel(is_open: bool) -> ChannelDecision:
        return ChannelDecision(open=is_open, closed_by=None if is_open else "evidence")

    members = {
        name: MemberDecision(
            tier=tier,
            channels={
                Channel.DOWNLOAD: channel(tier is Tier.OPEN_WEIGHTS),
                Channel.API: channel(tier is not Tier.HELD),
            },
        )
        for name, tier in tiers.items()
    }
    return Decision(family="f", version="1.0.0", policies=(), members=members, components=())


async def test_members_are_served_whatever_their_tier_and_held_ones_are_nowhere(
    tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "family.yaml").write_text(FAMILY)
    (tmp_path / "tiny").symlink_to(tiny)
    loaded = load_family(tmp_path / "family.yaml")
    judged = decision(small=Tier.OPEN_WEIGHTS, large=Tier.API, held=Tier.HELD)
    assert [member.name for member in served_members(loaded, judged)] == ["small", "large"]
    assert served_members(loaded, decision(small=Tier.HELD)) == ()
    gateway = await build_from_family(loaded, judged, tmp_path / "data", threads=1)
    key = (await gateway.ledger.create_key("k")).key
    async with GatewayServer(gateway, port=0) as server, aiohttp.ClientSession() as http:
        headers = {"authorization": f"Bearer {key}"}
        async with http.get(server.base_url + "/models", headers=headers) as response:
            rows = {row["id"]: row["dutchdoor"] for row in (await response.json())["data"]}
        assert list(rows) == ["small", "large"]
        assert rows["small"]["parameters"] > 0 and rows["small"]["license"] == "MIT"
        assert rows["large"]["parameters"] is None  # what is closed is not told in passing
        assert rows["large"]["price"] == {"input": 1.0, "output": 3.0}
        for model, status in (("large", 200), ("held", 404)):
            asked = {**HELLO, "model": model, "max_tokens": 3}
            async with http.post(
                server.base_url + "/chat/completions", json=asked, headers=headers
            ) as response:
                assert response.status == status


async def test_an_adapter_is_not_served_by_itself(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").symlink_to(tiny)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    text = "variants: [{id: a, weights: tiny}, {id: b, adapter: adapter, on: a}], serve: {variant: b}, price:"
    (tmp_path / "family.yaml").write_text(
        FAMILY.replace("variants: [{id: a, weights: tiny}], price:", text, 1)
    )
    loaded = load_family(tmp_path / "family.yaml")
    with pytest.raises(EngineError, match="is an adapter"):
        await build_from_family(loaded, decision(small=Tier.API), tmp_path / "data")


@pytest.fixture
async def engine_desk(tiny: Path, tmp_path: Path, desk: Opener) -> AsyncIterator[Desk]:
    engine = await open_engine(tiny, threads=1, cache=tmp_path / "cache")
    target = EngineTarget("tiny", engine, Price(input=1000, output=3000))
    async with contextlib.AsyncExitStack() as stack:
        yield await stack.enter_async_context(desk(Route(model="m", targets=(target,)), budget=10**9))


async def test_what_an_engine_answers_is_charged_by_its_own_count(engine_desk: Desk) -> None:
    async with engine_desk.ask(max_tokens=5) as response:
        usage = (await response.json())["usage"]
    (row,) = await engine_desk.rows()
    assert row["nanodollars"] == usage["prompt_tokens"] + 3 * usage["completion_tokens"] <= row["reserved"]


@pytest.mark.parametrize("text", ["hi", "日本語 🙂" * 12, "\u0000\u0001\u0002" * 20, "a " * 100])
async def test_no_prompt_has_more_tokens_than_its_bound(engine_desk: Desk, text: str) -> None:
    async with engine_desk.ask(messages=[{"role": "user", "content": text}], max_tokens=1) as response:
        assert response.status in (200, 400)
    assert all(row["alarm"] is None for row in await engine_desk.rows())


async def test_a_client_that_leaves_stops_the_engine_and_pays_for_what_it_got(engine_desk: Desk) -> None:
    async with engine_desk.ask(stream=True, max_tokens=400, temperature=1.5, seed=3) as response:
        async for _ in response.content.iter_any():
            break
        response.close()
    for _ in range(200):
        if rows := await engine_desk.rows():
            break
        await asyncio.sleep(0.02)
    assert rows[0]["counted"] == "reported" and rows[0]["input_tokens"] > 0
    if rows[0]["state"] == "left":  # a tiny model may be through before the client is gone
        assert 0 < rows[0]["output_tokens"] < 400


async def test_what_an_engine_cannot_read_is_400_and_not_another_targets_work(engine_desk: Desk) -> None:
    async with engine_desk.ask(messages=[{"role": "user", "content": "word " * 3000}]) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "context_length_exceeded"
    assert await engine_desk.total() == 0


async def test_an_open_engine_stands_in_for_an_upstream_that_is_gone(
    tiny: Path, tmp_path: Path, desk: Opener
) -> None:
    engine = await open_engine(tiny, threads=1, cache=tmp_path / "cache")
    price = Price(input=1, output=1)
    async with Upstream(Reply(status=500)) as gone:
        targets = (HttpTarget("gone", gone.url, "m", price), EngineTarget("tiny", engine, price))
        async with desk(Route(model="m", targets=targets)) as d, d.ask(max_tokens=2, stream=True) as response:
            assert response.headers["x-dutchdoor-target"] == "tiny"
            assert (await response.text()).endswith("data: [DONE]\n\n")


async def test_a_schema_binds_the_answer_of_an_engine(engine_desk: Desk) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    async with engine_desk.ask(response_format=wanted, max_tokens=60) as response:
        assert response.status == 200
        choice = (await response.json())["choices"][0]
    if choice["finish_reason"] == "stop":
        assert json.loads(choice["message"]["content"])["a"] in ("x", "y")
