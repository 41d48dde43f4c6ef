"""What a server says of its model, and whose key it is sent."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from dutchdoor.core import UsageError
from dutchdoor.drill.remote import _usual_variable, remote
from dutchdoor.drill.routes import priced


class Lists:
    """A server that has nothing but a list of models."""

    def __init__(self) -> None:
        self.entry: Any = {"id": "m"}
        self.keys: list[str | None] = []
        self.url = ""

    async def models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        return web.json_response({"object": "list", "data": [{"id": "other"}, self.entry]})


@pytest.fixture
async def server() -> AsyncIterator[Lists]:
    lists = Lists()
    app = web.Application()
    app.router.add_get("/v1/models", lists.models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    lists.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield lists
    await runner.cleanup()


async def test_our_own_gateway_tells_licence_price_and_context(server: Lists) -> None:
    server.entry["dutchdoor"] = {
        "license": "LicenseRef-gable-api",
        "context_length": 512,
        "parameters": 6_000_000,
        "price": {"input": 0.4, "output": 1.2},
    }
    found = await remote(server.url, "m", None, "a")
    assert (found.license, found.context_length, found.parameters) == ("LicenseRef-gable-api", 512, 6_000_000)
    assert found.price is not None
    assert (found.price.input_pico_usd, found.price.output_pico_usd) == (400_000, 1_200_000)
    assert priced(found.target, found.price) == {
        "url": server.url,
        "model": "m",
        "price": {"input": "0.4", "output": "1.2"},
    }


@pytest.mark.parametrize(
    ("entry", "context", "price"),
    [
        ({"max_model_len": 8192}, 8192, None),  # vLLM
        ({"meta": {"n_ctx_train": 4096}}, 4096, None),  # llama-server
        (
            {"context_length": 1000, "pricing": {"prompt": "0.0000004", "completion": "0.0000012"}},
            1000,
            (400_000, 1_200_000),
        ),
        ({"pricing": {"prompt": "-1", "completion": "-1"}}, None, None),  # depends on what answers
        ({"price": {"input": "a lot", "output": 1}}, None, None),
        ({"price": {"input": 1}}, None, None),
        ({"context_length": "long", "dutchdoor": [1]}, None, None),
        ({"context_length": True}, None, None),
    ],
)
async def test_what_a_server_does_not_say_readably_is_unknown(
    server: Lists, entry: dict[str, Any], context: int | None, price: tuple[int, int] | None
) -> None:
    server.entry |= entry
    found = await remote(server.url, "m", None, "a")
    assert found.context_length == context
    assert (found.price and (found.price.input_pico_usd, found.price.output_pico_usd)) == price


async def test_a_model_that_is_not_listed_and_a_server_that_is_not_there_are_unknown(server: Lists) -> None:
    assert (await remote(server.url, "nobody", None, "a")).context_length is None
    assert (await remote("http://127.0.0.1:9/v1", "m", None, "a")).price is None


async def test_a_key_comes_from_the_variable_that_is_named(
    server: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "k1")
    found = await remote(server.url, "m", "MY_KEY", "b")
    assert server.keys == ["Bearer k1"]
    assert found.target == {"url": server.url, "model": "m", "key_env": "MY_KEY"}
    assert "MY_KEY" in found.key_hint
    assert "k1" not in repr(found)


async def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set") as caught:
        await remote("https://api.openai.com/v1", "m", None, "b")
    assert "--key-env-b" in (caught.value.hint or "")


async def test_only_a_server_on_this_machine_is_sent_our_own_key(
    server: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUTCHDOOR_API_KEY", "dd")
    assert (await remote(server.url, "m", None, "a")).key_env == "DUTCHDOOR_API_KEY"
    away = await remote("http://nowhere.invalid/v1", "m", None, "a")
    assert away.key_env is None
    assert "--key-env-a" in away.key_hint


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("localhost", True),
        ("127.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
    ],
)
def test_a_name_that_begins_like_this_machine_is_not_this_machine(host: str, here: bool) -> None:
    assert (_usual_variable(f"http://{host}:8000/v1") == "DUTCHDOOR_API_KEY") is here
