"""What is refused, and how: in OpenAI's form, naming the parameter, before anything is reserved or asked."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.gateway.dialects.chat import ChatDialect
from dutchdoor.gateway.dialects.reading import read_fields
from dutchdoor.gateway.errors import ApiError
from dutchdoor.gateway.protocol import connection
from dutchdoor.gateway.targets.engine_chat import chat_request, read_chat
from tests.fakes.upstream import Upstream
from tests.unit.gateway.conftest import HELLO, Opener, route


async def error(response) -> dict:
    body = await response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


async def test_a_wrong_key_is_401_and_a_revoked_one_too(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        for key in ("dd-wrong", "€", " "):
            async with d.ask(key=key.encode("utf-8").decode("latin-1")) as response:
                assert response.status == 401 and (await error(response))["code"] == "invalid_api_key"
        async with d.http.post(d.url + "/chat/completions", json=HELLO) as response:
            assert response.status == 401
        async with d.http.get(d.url + "/models") as response:
            assert response.status == 401
        await d.ledger.revoke_key("test")
        async with d.ask() as response:
            assert response.status == 401
        assert not upstream.requests and not await d.rows()


async def test_an_unknown_model_is_404(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask(model="nobody") as response:
            assert response.status == 404
            found = await error(response)
            assert (found["code"], found["param"]) == ("model_not_found", "model")
        async with d.http.get(d.url + "/models/x", headers={"authorization": f"Bearer {d.key}"}) as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b"\xff\xfe", None),
        (b'{"a":' * 5000, None),
        (b'{"messages": [{"role":"user","content":"x"}]}', "model"),
        (b'{"model": "m"}', "messages"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": 7, "messages": [1]}', "model"),
        (b'{"model": "m", "messages": "hi"}', "messages"),
        (b'{"model": "m", "messages": [1], "stream": "yes"}', "stream"),
        (b'{"model": "m", "messages": [1], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "m", "messages": [1], "max_tokens": 99999999999}', "max_tokens"),
        (b'{"model": "m", "messages": [1], "max_tokens": 1.5}', "max_tokens"),
        (b'{"model": "m", "messages": [1], "n": 0}', "n"),
        (b'{"model": "m", "messages": [1], "stream_options": {"include_usage": true}}', "stream_options"),
    ],
)
async def test_a_broken_body_is_400_that_names_the_parameter(
    desk: Opener, body: bytes, param: str | None
) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        headers = {"authorization": f"Bearer {d.key}"}
        async with d.http.post(d.url + "/chat/completions", data=body, headers=headers) as response:
            assert response.status == 400
            assert (await error(response))["param"] == param
        assert not upstream.requests and not await d.rows()


async def test_a_body_above_the_limit_is_413(desk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LARGEST_BODY", 1000)
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask(user="x" * 2000) as response:
            assert response.status == 413 and (await error(response))["code"] == "body_too_large"

        async def endless():
            for _ in range(100):
                yield b"x" * 100

        headers = {"authorization": f"Bearer {d.key}"}
        async with d.http.post(d.url + "/chat/completions", data=endless(), headers=headers) as response:
            assert response.status == 413
        assert not upstream.requests


async def test_other_paths_and_methods_are_errors_in_the_same_form(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.http.get(d.url + "/chat/completions") as response:
            assert response.status == 405 and response.headers["allow"] == "POST"
            await error(response)
        async with d.http.get(d.url + "/nothing") as response:
            assert response.status == 404
            await error(response)


async def test_health_needs_no_key_and_readiness_ends_with_the_drain(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        root = d.url.removesuffix("/v1")
        for path in ("/healthz", "/readyz"):
            async with d.http.get(root + path) as response:
                assert response.status == 200
        d.server.app.draining = True
        async with d.http.get(root + "/readyz") as response:
            assert response.status == 503
        async with d.http.get(root + "/healthz") as response:
            assert response.status == 200


async def test_models_are_listed(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream), route(upstream, model="b")) as d:
        async with d.http.get(d.url + "/models", headers={"authorization": f"Bearer {d.key}"}) as response:
            body = await response.json()
        assert body["object"] == "list" and [row["id"] for row in body["data"]] == ["m", "b"]


def chat(**more):
    return read_chat(json.dumps({**HELLO, **more}).encode(), "'m'")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"n": 2}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"top_k": 5}, "top_k"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "content": "x", "refusal": "no"}]}, "messages[0].refusal"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(more: dict, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat_request(chat(**more), 5)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": %s}'
        % (b"[" * 980 + b"]" * 980),
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "\xff": 1}',
    ],
)
def test_a_body_that_only_an_engine_finds_unreadable_is_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        ChatDialect().read(body)
        read_chat(body, "'m'")
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b'{"\xff": 1}', b"{"])
def test_fields_that_cannot_be_read_are_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_fields(body)
    assert caught.value.status == 400


def test_an_image_part_is_refused_by_name() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(ApiError, match="not supported") as caught:
        chat(messages=[{"role": "user", "content": [part]}])
    assert caught.value.param is not None and "content" in caught.value.param


def test_everything_that_is_accepted_reaches_the_engine() -> None:
    asked = chat_request(
        chat(
            messages=[
                {"role": "developer", "content": "be brief"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "name": None,
                    "refusal": None,
                },
            ],
            temperature=0,
            top_p=0.5,
            seed=7,
            stop="END",
            logprobs=True,
            top_logprobs=2,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "array"}},
            },
            n=1,
            user="u",
            metadata={"a": "b"},
            presence_penalty=0,
            logit_bias={},
            tools=[],
            tool_choice="none",
            modalities=["text"],
        ),
        9,
    )
    assert [(each.role, each.content) for each in asked.messages] == [("system", "be brief"), ("user", "ab")]
    assert (asked.temperature, asked.top_p, asked.seed, asked.stop, asked.logprobs) == (
        0,
        0.5,
        7,
        ("END",),
        2,
    )
    assert asked.json_schema == {"type": "array"} and asked.max_tokens == 9
    plain = chat_request(chat(), 9)
    assert (plain.temperature, plain.logprobs, plain.json_schema, plain.stop) == (1.0, None, None, ())


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["model", "messages", "stream", "n", "max_tokens", "stream_options", "role", "content"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_body_is_answered_with_anything_but_a_request_or_a_400(body: bytes) -> None:
    try:
        ChatDialect().read(body)
        chat_request(read_chat(body, "'m'"), 1)
    except ApiError as refused:
        assert refused.status == 400 and json.loads(refused.body())["error"]["message"]
