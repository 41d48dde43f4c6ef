"""What a target can do is read from its answers: what is dropped silently is found, what failed is unknown."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from dutchdoor.gateway.routing.probe import MOST_TOKENS, QUESTIONS, REQUESTS, Finding, Probe, merged

Body = dict[str, Any]
Answer = Callable[[Body], "Body | int"]


def whole(text: str = "Hello there.", *, tokens: int = 10, choices: int = 1, **message: Any) -> Body:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": "stop",
    }
    return {"choices": [dict(choice) for _ in range(choices)], "usage": {"prompt_tokens": tokens}}


def shown(body: Body) -> list[Body]:
    content = body["messages"][0]["content"]
    return [part for part in content if part["type"] == "image_url"] if isinstance(content, list) else []


def able(body: Body) -> Body | int:
    """A target that does all that it is asked."""
    if body.get("tool_choice"):
        return whole(tool_calls=[{"id": "1", "type": "function"}], tokens=50)
    if body.get("response_format"):
        return whole('{"ok": tru')
    if body.get("seed") is not None:
        return whole(f"word {body['seed']}")
    answer = whole(tokens=100 if shown(body) else 10, choices=body.get("n", 1))
    if body.get("logprobs"):
        answer["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -1.0}]}
    return answer


def careless(body: Body) -> Body | int:
    """A target that drops whatever it does not know."""
    return whole(f"word {careless_count()}" if body.get("temperature") else "Hello there.")


_counts = iter(range(1_000_000))


def careless_count() -> int:
    return next(_counts)


def strict(body: Body) -> Body | int:
    """A target that refuses whatever it does not know."""
    known = {"model", "messages", "max_tokens", "stream", "temperature"}
    return 400 if set(body) - known or shown(body) else whole()


@contextlib.asynccontextmanager
async def target(answer: Answer, *, usage: bool = True) -> AsyncIterator[tuple[str, list[Body]]]:
    asked: list[Body] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked.append(body)
        said = answer(body)
        if isinstance(said, int):
            return web.json_response({"error": {"message": "no"}}, status=said)
        if not body.get("stream"):
            return web.json_response(said)
        events: list[Body] = [{"choices": [{"delta": {"content": "hi"}}], "usage": None}]
        if usage and "stream_options" in body:
            events.append({"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 3}})
        text = "".join(f"data: {json.dumps(each)}\n\n" for each in events) + "data: [DONE]\n\n"
        return web.Response(text=text, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", asked
    finally:
        await runner.cleanup()


async def verdicts(answer: Answer, *, usage: bool = True) -> dict[str, str]:
    async with target(answer, usage=usage) as (url, asked):
        found = await Probe(url, "m", timeout_s=5).run()
    assert [each.ability for each in found] == list(QUESTIONS)
    assert len(asked) <= REQUESTS
    assert all(body["max_tokens"] <= MOST_TOKENS and body["model"] == "m" for body in asked)
    return {each.ability: each.verdict for each in found}


async def test_what_is_in_the_answer_can_be_done() -> None:
    found = await verdicts(able)
    assert found.pop("parallel_tools") == "unknown"
    assert set(found.values()) == {"can"}


async def test_what_is_dropped_silently_cannot_be_done() -> None:
    found = await verdicts(careless, usage=False)
    assert found.pop("parallel_tools") == "unknown"
    assert set(found.values()) == {"cannot"}


async def test_what_is_refused_cannot_be_done() -> None:
    found = await verdicts(strict)
    assert found.pop("images") == "cannot"
    assert found.pop("parallel_tools") == "unknown"  # it refuses tools as such
    assert set(found.values()) == {"cannot"}


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_a_target_that_fails_is_unknown_and_asked_once(status: int) -> None:
    async with target(lambda _: status) as (url, asked):
        found = await Probe(url, "m").run()
    assert {each.verdict for each in found} == {"unknown"} and len(asked) == 1
    assert f"a plain chat fails: it answers {status}" in found[0].because
    unreachable = await Probe("http://127.0.0.1:9/v1", "m").run()
    assert {each.verdict for each in unreachable} == {"unknown"}


@pytest.mark.parametrize("status", [404, 429, 500])
async def test_a_question_that_fails_for_another_reason_is_unknown(status: int) -> None:
    def flaky(body: Body) -> Body | int:
        plain = set(body) <= {"model", "messages", "max_tokens"} and not shown(body)
        return whole() if plain else status

    assert set((await verdicts(flaky)).values()) == {"unknown"}


async def test_an_image_that_is_pasted_as_text_is_not_seen() -> None:
    def pasted(body: Body) -> Body | int:
        return whole(tokens=len(json.dumps(body["messages"])) // 4)

    assert (await verdicts(pasted))["images"] == "cannot"


async def test_parts_that_are_refused_even_without_an_image_say_nothing() -> None:
    def strings_only(body: Body) -> Body | int:
        return 422 if isinstance(body["messages"][0]["content"], list) else whole()

    assert (await verdicts(strings_only))["images"] == "unknown"


async def test_an_answer_that_never_varies_says_nothing_of_the_seed() -> None:
    assert (await verdicts(lambda _: whole()))["seed"] == "unknown"


async def test_parallel_tools_that_alone_are_refused_cannot_be_done() -> None:
    def answer(body: Body) -> Body | int:
        return 400 if "parallel_tool_calls" in body else able(body)

    assert (await verdicts(answer))["parallel_tools"] == "cannot"


async def test_an_answer_that_is_no_json_is_unknown() -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text="<html>")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        found = await Probe(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", "m").run()
    finally:
        await runner.cleanup()
    assert {each.verdict for each in found} == {"unknown"}


def test_what_is_written_only_adds_and_closes() -> None:
    findings = [
        Finding(ability="tools", verdict="can", because=""),
        Finding(ability="n", verdict="cannot", because=""),
        Finding(ability="logprobs", verdict="can", because=""),
        Finding(ability="seed", verdict="unknown", because=""),
    ]
    declared: dict[str, bool | int] = {"context": 5, "n": True, "logprobs": False, "seed": True}
    assert merged(declared, findings) == {
        "context": 5,
        "n": False,
        "logprobs": False,
        "seed": True,
        "tools": True,
    }
