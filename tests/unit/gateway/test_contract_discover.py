"""Servers on this machine, told by what only they answer; each fake speaks as its kind over real HTTP."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dutchdoor.gateway.routing.discover import Model, Server, as_routes, discover, known_urls
from dutchdoor.gateway.routing.file import load_routes
from dutchdoor.gateway.routing.writing import routes_text

Answers = Mapping[str, Any]


def models(*names: str, **more: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", **more} for name in names]}


VLLM: Answers = {
    "/v1/models": models("Qwen/Qwen3-8B", owned_by="vllm", max_model_len=32768),
    "/version": {"version": "0.12.0"},
}
SGLANG: Answers = {
    "/v1/models": models("org/m", owned_by="sglang", max_model_len=8192),
    "/get_model_info": {"model_path": "org/m", "is_generation": True},
}
OLLAMA: Answers = {
    "/v1/models": models("llama3.2:latest", "qwen3:8b", owned_by="library"),
    "/api/version": {"version": "0.40.0"},
    "/api/ps": {"models": [{"name": "qwen3:8b", "context_length": 4096}]},
}
LLAMA: Answers = {
    "/v1/models": models("models/tiny-Q8.gguf", owned_by="llamacpp"),
    "/props": {"default_generation_settings": {"n_ctx": 2048}, "model_path": "models/tiny-Q8.gguf"},
    "/version": {"version": "not vllm"},
}
STUDIO: Answers = {
    "/v1/models": models("gemma", "nomic"),
    "/api/v0/models": {
        "data": [
            {"id": "gemma", "type": "llm", "loaded_context_length": 8000, "max_context_length": 32000},
            {"id": "nomic", "type": "embeddings", "max_context_length": 2048},
        ]
    },
}
OURS: Answers = {
    "/v1/models": web.HTTPUnauthorized,
    "error": {"error": {"message": "Incorrect API key provided. Make one with `dutchdoor keys create`."}},
}
OURS_OPEN: Answers = {"/v1/models": models("m", dutchdoor={"license": None}, owned_by="dutchdoor")}
KEYED: Answers = {
    "/v1/models": web.HTTPUnauthorized,
    "error": {"error": "Unauthorized"},
    "/version": {"version": "0.12.0"},
}


@contextlib.asynccontextmanager
async def serving(answers: Answers) -> AsyncIterator[str]:
    """A server that answers these paths, and 404 to all others."""

    async def answer(request: web.Request) -> web.Response:
        said = answers.get(request.path)
        if said is web.HTTPUnauthorized:
            return web.json_response(answers["error"], status=401)
        return web.json_response(
            {"detail": "Not Found"} if said is None else said, status=200 if said else 404
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answers", "kind", "found"),
    [
        (VLLM, "vllm", [Model(name="Qwen/Qwen3-8B", context=32768)]),
        (SGLANG, "sglang", [Model(name="org/m", context=8192)]),
        (OLLAMA, "ollama", [Model(name="llama3.2:latest"), Model(name="qwen3:8b", context=4096)]),
        (LLAMA, "llama-server", [Model(name="models/tiny-Q8.gguf", context=2048)]),
        (STUDIO, "lmstudio", [Model(name="gemma", context=8000), Model(name="nomic", embeds=True)]),
        ({"/v1/models": models("m")}, "openai-compatible", [Model(name="m")]),
    ],
)
async def test_each_kind_is_told_by_what_only_it_answers(
    answers: Answers, kind: str, found: list[Model]
) -> None:
    async with serving(answers) as url:
        (server,) = await discover([url + "/v1"])
    assert server == Server(url=url + "/v1", kind=kind, models=tuple(found))


@pytest.mark.parametrize("answers", [OURS, OURS_OPEN])
async def test_a_gateway_of_our_own_is_no_target(answers: Answers) -> None:
    async with serving(answers) as url:
        assert await discover([url]) == []


async def test_a_server_that_needs_a_key_is_said(answers: Answers = KEYED) -> None:
    async with serving(answers) as url:
        (server,) = await discover([url])
    assert server == Server(url=url + "/v1", kind="vllm", needs_key=True)
    assert as_routes([server]).targets == {}


async def test_what_does_not_answer_is_left_out() -> None:
    odd: Answers = {"/v1/models": {"data": "none"}, "/props": {"a": 1}}
    async with serving(odd) as other, serving({"/v1/models": [1]}) as list_, serving(VLLM) as url:
        found = await discover([other, "http://127.0.0.1:9/v1", url, list_, url])
    assert [server.url for server in found] == [url + "/v1"]


async def test_all_that_was_found_is_a_routes_file(tmp_path: Path) -> None:
    async with serving(VLLM) as one, serving(VLLM) as two, serving(STUDIO) as three:
        found = await discover([one, two, three])
    path = tmp_path / "routes.yaml"
    path.write_text(routes_text(as_routes(found)))
    loaded = load_routes(path)
    assert [plan.model for plan in loaded.routes] == ["qwen3-8b", "qwen3-8b-vllm", "gemma", "nomic"]
    assert loaded.targets["qwen3-8b"].can == {"context": 32768}
    assert loaded.targets["nomic"].can == {"chat": False, "embeddings": True}
    assert all(plan.unpriced for plan in loaded.routes)


def test_the_known_ports_are_those_of_their_kinds() -> None:
    assert {int(url.split(":")[2].split("/")[0]) for url in known_urls()} == {8000, 30000, 8080, 11434, 1234}
