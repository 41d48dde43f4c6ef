"""Providers with an API of their own: what goes there, what comes back, and what is refused by name."""

import asyncio
import base64
import contextlib
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from dutchdoor.core import MissingExtraError
from dutchdoor.gateway.call import DEFAULT_CAP, Asked, Call
from dutchdoor.gateway.contract import Abilities
from dutchdoor.gateway.errors import ApiError, BrokenStreamError, TargetError, UnableError
from dutchdoor.gateway.targets import adapter_chat
from dutchdoor.gateway.targets.adapter import AdapterStream, AdapterTarget
from dutchdoor.gateway.targets.adapter_chat import Provider
from dutchdoor.gateway.targets.interface import DONE, Whole
from tests.fakes import anthropic_api, gemini_api
from tests.fakes.anthropic_api import AnthropicApi
from tests.fakes.gemini_api import GeminiApi
from tests.fakes.provider_api import ProviderApi, Scripted

pytest.importorskip("any_llm", reason="the extra `adapters` is not installed")

KEY = "provider-key"
MODELS: dict[Provider, str] = {"anthropic": "claude-test", "gemini": "gemini-3.5-flash"}
APIS: dict[Provider, type[ProviderApi]] = {"anthropic": AnthropicApi, "gemini": GeminiApi}
FAKES: dict[Provider, Any] = {"anthropic": anthropic_api, "gemini": gemini_api}
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
NESTED = {
    "type": "object",
    "properties": {"at": {"type": "object", "properties": {"x": {"type": "integer", "minimum": 3}}}},
    "required": ["at"],
}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "looks", "parameters": NESTED}}]
PIXEL = base64.b64encode(b"\x89PNG").decode()
BOTH = pytest.mark.parametrize("kind", ["anthropic", "gemini"])


class Outlet:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.first = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.written += data
        self.first.set()

    async def drain(self) -> None:
        pass

    def on_pressure(self, hold: Any) -> None:
        pass

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(event[6:]) for event in self.written.split(b"\n\n") if event]

    @property
    def text(self) -> str:
        deltas = [chunk["choices"][0]["delta"] for chunk in self.chunks if chunk["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


def call(left_s: float = 30.0, **fields: Any) -> Call:
    """A chat as the dialect would have read it."""
    body = {"model": "public", "messages": HELLO, **fields}
    asked = Asked(
        operation="chat",
        model="public",
        body=msgspec.json.encode(body),
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        cap=body.get("max_completion_tokens") or body.get("max_tokens"),
        choices=body.get("n") or 1,
    )
    return Call("req-1", asked, created=1_800_000_000, deadline=time.monotonic() + left_s)


@contextlib.asynccontextmanager
async def opened(
    kind: Provider, *replies: Scripted, key: str = KEY, **more: Any
) -> AsyncIterator[tuple[AdapterTarget, ProviderApi]]:
    async with APIS[kind](*replies) as api:
        target = AdapterTarget("t", kind, MODELS[kind], None, key=key, base_url=api.url, **more)
        try:
            yield target, api
        finally:
            await target.close()


async def whole(target: AdapterTarget, **fields: Any) -> dict[str, Any]:
    answer = await target.answer(call(**fields))
    assert isinstance(answer, Whole)
    decoded: dict[str, Any] = msgspec.json.decode(answer.body)
    return decoded


async def begun(target: AdapterTarget, **fields: Any) -> AdapterStream:
    stream = await target.answer(call(stream=True, **fields))
    assert isinstance(stream, AdapterStream)
    return stream


async def streamed(target: AdapterTarget, **fields: Any) -> tuple[AdapterStream, Outlet]:
    stream, out = await begun(target, **fields), Outlet()
    try:
        await stream.relay(out)
    finally:
        await stream.close()
    return stream, out


# -- answers


@BOTH
async def test_a_whole_answer_has_the_form_of_openai_and_the_public_name(kind: Provider) -> None:
    async with opened(kind) as (target, api):
        answer = await target.answer(call())
    assert isinstance(answer, Whole) and answer.usage is not None
    body = msgspec.json.decode(answer.body)
    assert (body["object"], body["id"], body["created"]) == (
        "chat.completion",
        "chatcmpl-req-1",
        1_800_000_000,
    )
    assert body["model"] == "public"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "open below, closed above", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_tokens) == (7, 4, 0)
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (7, 4)
    assert len(api.requests) == 1


@BOTH
async def test_a_stream_is_openais_events_with_one_id_one_role_and_one_end(kind: Provider) -> None:
    async with opened(kind) as (target, _):
        stream, out = await streamed(target, stream_options={"include_usage": True})
    assert out.text == "open below, closed above" and stream.tail == DONE
    assert {chunk["id"] for chunk in out.chunks} == {"chatcmpl-req-1"}
    assert {chunk["object"] for chunk in out.chunks} == {"chat.completion.chunk"}
    *said, last = out.chunks
    assert [chunk["choices"][0]["delta"].get("role") for chunk in said] == ["assistant"] + [None] * (
        len(said) - 1
    )
    assert [chunk["choices"][0]["finish_reason"] for chunk in said].count("stop") == 1
    assert last["choices"] == [] and last["usage"]["total_tokens"] == 11
    assert stream.usage is not None and (stream.usage.input_tokens, stream.usage.output_tokens) == (7, 4)
    assert stream.relayed >= 6  # 24 bytes, four to a token


@BOTH
async def test_usage_that_was_not_asked_for_is_known_but_not_told(kind: Provider) -> None:
    async with opened(kind) as (target, _):
        stream, out = await streamed(target)
    assert stream.usage is not None and all(chunk["choices"] for chunk in out.chunks)


USAGES: dict[Provider, dict[str, Any]] = {
    "anthropic": {
        "input_tokens": 7,
        "output_tokens": 4,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 10,
    },
    "gemini": {
        "promptTokenCount": 117,
        "cachedContentTokenCount": 100,
        "candidatesTokenCount": 1,
        "thoughtsTokenCount": 3,
        "totalTokenCount": 121,
    },
}


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_all_input_is_counted_once_and_all_output_with_thoughts(kind: Provider, stream: bool) -> None:
    async with opened(kind, FAKES[kind].says(usage=USAGES[kind])) as (target, _):
        usage = (await streamed(target))[0].usage if stream else None
        if not stream:
            answer = await target.answer(call())
            assert isinstance(answer, Whole)
            usage = answer.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (117, 4, 100)


async def test_a_usage_that_is_not_told_is_unknown_and_never_nought() -> None:
    async with opened("gemini", gemini_api.says(usage=None)) as (target, _):
        answer = await target.answer(call())
        stream, _ = await streamed(target)
    assert isinstance(answer, Whole) and answer.usage is None and answer.said == 24
    assert b'"usage"' not in answer.body
    assert stream.usage is None and stream.relayed >= 6


STOPS = [
    ("anthropic", "max_tokens", "length"),
    ("anthropic", "stop_sequence", "stop"),
    ("anthropic", "refusal", "content_filter"),
    ("gemini", "MAX_TOKENS", "length"),
    ("gemini", "SAFETY", "content_filter"),
]


@pytest.mark.parametrize(("kind", "stop", "reason"), STOPS)
async def test_the_reason_of_an_end_is_told_in_openais_words(kind: Provider, stop: str, reason: str) -> None:
    async with opened(kind, FAKES[kind].says(stop=stop)) as (target, _):
        body = await whole(target)
        _, out = await streamed(target)
    assert body["choices"][0]["finish_reason"] == reason
    assert out.chunks[-1]["choices"][0]["finish_reason"] == reason


# -- what goes there


@BOTH
async def test_an_output_cap_is_always_sent(kind: Provider) -> None:
    async with opened(kind) as (target, api):
        for asked, sent in (({}, DEFAULT_CAP), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 6}, 6)):
            await target.answer(call(**asked))
            config = api.body.get("generationConfig", api.body)
            assert config.get("maxOutputTokens", config.get("max_tokens")) == sent
            assert target.bound(call(**asked))[1] == sent


ARRIVES: dict[Provider, dict[str, tuple[Any, str, Any]]] = {
    # parameter: what is given, where it arrives, as what
    "anthropic": {
        "temperature": (0.5, "temperature", 0.5),
        "top_p": (0.9, "top_p", 0.9),
        "top_k": (3, "top_k", 3),
        "stop": (["x"], "stop_sequences", ["x"]),
        "service_tier": ("standard_only", "service_tier", "standard_only"),
        "thinking": ({"type": "enabled", "budget_tokens": 1024}, "thinking.budget_tokens", 1024),
        "reasoning_effort": ("low", "output_config.effort", "low"),
        "response_format": (FORMAT, "output_config.format.schema", SCHEMA),
        "tools": (TOOLS, "tools.0.input_schema.properties.at.properties.x.minimum", 3),
        "tool_choice": ("required", "tool_choice.type", "any"),
        "parallel_tool_calls": (False, "tool_choice.disable_parallel_tool_use", True),
    },
    "gemini": {
        "temperature": (0.5, "generationConfig.temperature", 0.5),
        "top_p": (0.9, "generationConfig.topP", 0.9),
        "top_k": (3, "generationConfig.topK", 3),
        "seed": (11, "generationConfig.seed", 11),
        "presence_penalty": (0.5, "generationConfig.presencePenalty", 0.5),
        "frequency_penalty": (0.5, "generationConfig.frequencyPenalty", 0.5),
        "stop": ("x", "generationConfig.stopSequences", ["x"]),
        "service_tier": ("flex", "serviceTier", "flex"),
        "reasoning_effort": ("low", "generationConfig.thinkingConfig.thinking_level", "LOW"),
        "response_format": (FORMAT, "generationConfig.responseJsonSchema", SCHEMA),
        "tools": (
            TOOLS,
            "tools.0.functionDeclarations.0.parameters_json_schema.properties.at.properties.x.minimum",
            3,
        ),
        "tool_choice": (
            {"type": "function", "function": {"name": "look"}},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
            ["look"],
        ),
    },
}
ARRIVING = [(kind, name) for kind, names in ARRIVES.items() for name in names]
ENVELOPE = {"model", "messages", "max_tokens", "max_completion_tokens", "stream_options", "n"}


def at(body: Any, path: str) -> Any:
    for step in path.split("."):
        body = body[int(step)] if step.isdigit() else body[step]
    return body


@pytest.mark.parametrize(("kind", "name"), ARRIVING)
async def test_a_parameter_that_is_taken_arrives(kind: Provider, name: str) -> None:
    value, path, sent = ARRIVES[kind][name]
    more = {"tools": TOOLS} if name in ("tool_choice", "parallel_tool_calls") else {}
    asked = call(**{**more, name: value})
    async with opened(kind) as (target, api):
        target.check(asked)
        await target.answer(asked)
    assert at(api.body, path) == sent


ON: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "store": True, "parallel_tool_calls": False}
REFUSED = [
    (kind, name)
    for kind in ARRIVES
    for name in (*CompletionCreateParamsBase.__annotations__, "safety_settings", "cached_content", "typo")
    if name not in ENVELOPE and name not in ARRIVES[kind]
]


@pytest.mark.parametrize(("kind", "name"), REFUSED)
async def test_every_other_parameter_of_openais_is_refused_by_name(kind: Provider, name: str) -> None:
    async with opened(kind) as (target, api):
        with pytest.raises(ApiError) as raised:
            target.check(call(**{name: ON.get(name, "on")}))
    assert (raised.value.status, raised.value.param) == (400, name)
    assert raised.value.code == "unsupported_parameter" and not api.requests


# Without a refusal these would be left out by the library, and the answer would look as if all were well.
DROPPED: list[tuple[Provider, str]] = [("gemini", "logprobs"), ("gemini", "logit_bias"), ("gemini", "user")]


@pytest.mark.parametrize(("kind", "name"), DROPPED)
async def test_the_library_alone_would_drop_it_silently(
    kind: Provider, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value: Any = {"logprobs": True, "logit_bias": {"1": 5}, "user": "u-77"}[name]
    monkeypatch.setattr(adapter_chat, "TAKEN", {kind: adapter_chat.TAKEN[kind] | {name}})
    async with opened(kind) as (target, api):
        await whole(target, **{name: value})
    assert f"'{name}'" not in str({**api.body, "contents": []}) and "u-77" not in str(api.body)


@BOTH
@pytest.mark.parametrize("name", ["extra_headers", "extra_body", "http_options", "timeout", "api_base"])
async def test_options_of_the_librarys_own_client_are_no_parameters(kind: Provider, name: str) -> None:
    stolen = {"base_url": "http://elsewhere.invalid", "x-api-key": "other"}
    async with opened(kind) as (target, api):
        with pytest.raises(ApiError) as raised:
            await target.answer(call(**{name: stolen}))
    assert raised.value.param == name and not api.requests


OFF = {
    "n": 1,
    "logprobs": False,
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "service_tier": "auto",
    "store": False,
    "seed": None,
    "user": None,
    "stream_options": None,
    "modalities": ["text"],
}


@BOTH
async def test_a_parameter_that_asks_for_nothing_is_no_reason_to_refuse(kind: Provider) -> None:
    async with opened(kind) as (target, api):
        await whole(target)
        plain = api.body
        target.check(call(**OFF))
        await whole(target, **OFF)
    assert api.body == plain


WITHIN: list[tuple[Provider | None, str, dict[str, Any]]] = [
    (None, "n", {"n": 2}),
    (None, "stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": True}}),
    (
        None,
        "tools[0].function.strict",
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
    ),
    (None, "tools[0].type", {"tools": [{"type": "web_search"}]}),
    (None, "tools[0].cache_control", {"tools": [{**TOOLS[0], "cache_control": {"type": "ephemeral"}}]}),
    (None, "tool_choice", {"tools": TOOLS, "tool_choice": "look"}),
    ("anthropic", "response_format", {"response_format": {"type": "json_object"}}),
    (None, "response_format.json_schema", {"response_format": {"type": "json_schema"}}),
    (
        None,
        "response_format.json_schema.description",
        {"response_format": {**FORMAT, "json_schema": {**FORMAT["json_schema"], "description": "d"}}},  # type: ignore[dict-item]  # a mapping
    ),
]
TURNS: list[tuple[Provider | None, str, list[dict[str, Any]]]] = [
    (None, "messages[0].name", [{"role": "user", "content": "x", "name": "ann"}]),
    (None, "messages[1].role", [*HELLO, {"role": "system", "content": "late"}]),
    (None, "messages[0].role", [{"role": "function", "content": "x"}]),
    (None, "messages[0].content", [{"role": "user"}]),
    (None, "messages[0].extra_content", [{**HELLO[0], "extra_content": {"google": {}}}]),
    (None, "messages[0].cache_control", [{**HELLO[0], "cache_control": {"type": "ephemeral"}}]),
    (None, "messages[0].extra_content.cache_control", [{**HELLO[0], "extra_content": {"cache_control": {}}}]),
    (None, "messages[1].refusal", [*HELLO, {"role": "assistant", "refusal": "no"}]),
    (None, "messages[1].audio", [*HELLO, {"role": "assistant", "audio": {"id": "a"}}]),
    (None, "messages[1].function_call", [*HELLO, {"role": "assistant", "function_call": {"name": "f"}}]),
    ("anthropic", "messages[1].reasoning", [*HELLO, {"role": "assistant", "content": "x", "reasoning": "r"}]),
    (None, "messages[1].reasoning_content", [*HELLO, {"role": "assistant", "reasoning_content": "r"}]),
    (
        None,
        "messages[0].content[0].type",
        [
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
            }
        ],
    ),
    (
        None,
        "messages[0].content[0].cache_control",
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
            }
        ],
    ),
    (
        None,
        "messages[0].content[0].image_url.detail",
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://x.test/i", "detail": "low"}}],
            }
        ],
    ),
    (
        None,
        "messages[0].content[0].image_url.url",
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,raw"}}]}],
    ),
    (
        None,
        "messages[0].content[0]",
        [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/i"}}]}],
    ),
    (
        None,
        "messages[1].tool_calls[0].function.arguments",
        [
            *HELLO,
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "[1"}}],
            },
        ],
    ),
]
INSIDE = [*WITHIN, *((kind, param, {"messages": turns}) for kind, param, turns in TURNS)]


@BOTH
@pytest.mark.parametrize(("only", "param", "fields"), INSIDE, ids=[param for _, param, _ in INSIDE])
async def test_what_would_be_lost_inside_of_a_field_is_refused_by_its_place(
    kind: Provider, only: Provider | None, param: str, fields: dict[str, Any]
) -> None:
    async with opened(kind) as (target, api):
        if only not in (None, kind):
            target.check(call(**fields))
            return
        with pytest.raises(ApiError) as raised:
            target.check(call(**fields))
    assert (raised.value.status, raised.value.param) == (400, param) and not api.requests


async def test_no_cache_that_costs_money_is_made_for_a_client() -> None:
    """Planted: the library makes one where it is let."""
    marked = [{"role": "user", "content": "x" * 20_000, "cache_control": {"type": "ephemeral"}}, *HELLO]
    async with opened("gemini") as (target, api):
        assert isinstance(api, GeminiApi)
        with pytest.raises(ApiError):
            await target.answer(call(messages=marked))
        assert not api.requests and not api.caches
        await target._library.provider.acompletion(MODELS["gemini"], messages=marked, max_tokens=5)
        assert api.caches == 1


async def test_declared_abilities_and_other_operations_are_held_against_a_request() -> None:
    async with opened("anthropic", can=Abilities(lacks=("tools",), max_output=10)) as (target, _):
        target.check(call())
        for fields, param in (({"tools": TOOLS}, "tools"), ({"max_tokens": 11}, "max_tokens")):
            with pytest.raises(ApiError) as raised:
                target.check(call(**fields))
            assert raised.value.param == param
        other = Asked(operation="embeddings", model="public", body=b'{"model":"public","input":"x"}')
        with pytest.raises(ApiError, match="answers chats only"):
            target.check(Call("r", other, created=1))


@BOTH
async def test_a_wrong_value_is_refused_with_the_parameters_name_and_not_the_value(kind: Provider) -> None:
    async with opened(kind) as (target, api):
        with pytest.raises(ApiError) as raised:
            await target.answer(call(temperature="prompt-text"))
    assert raised.value.status == 400 and raised.value.param == "temperature"
    assert "prompt-text" not in raised.value.message and not api.requests


# -- messages


@BOTH
async def test_system_and_developer_are_the_one_system_prompt(kind: Provider) -> None:
    first = {
        "role": "developer",
        "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}],
    }
    async with opened(kind) as (target, api):
        await whole(target, messages=[first, {"role": "system", "content": "and brief"}, *HELLO])
    sent = api.body.get("system") or api.body["systemInstruction"]["parts"][0]["text"]
    assert sent == "be kind\nand brief"


@BOTH
@pytest.mark.parametrize("url", [f"data:image/png;base64,{PIXEL}", "https://x.test/i.png"])
async def test_an_image_is_passed_on(kind: Provider, url: str) -> None:
    parts = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
    ]
    async with opened(kind) as (target, api):
        await whole(target, messages=[{"role": "user", "content": parts}])
    if kind == "anthropic":
        source = api.body["messages"][0]["content"][1]["source"]
        assert (source.get("data"), source.get("url")) == (
            (PIXEL, None) if url[:5] == "data:" else (None, url)
        )
    else:
        part = api.body["contents"][0]["parts"][1]
        assert (
            (part["inlineData"]["data"] == PIXEL)
            if url[:5] == "data:"
            else (part["fileData"]["file_uri"] == url)
        )


CALLS: dict[Provider, Scripted] = {
    "anthropic": anthropic_api.says(
        anthropic_api.text("looking"),
        anthropic_api.tool_use("call_1", "look", at={"x": 3}),
        anthropic_api.tool_use("call_2", "look", at={"x": 4}),
        stop="tool_use",
    ),
    "gemini": gemini_api.says(
        gemini_api.text("looking"),
        gemini_api.function_call("look", id="call_1", at={"x": 3}),
        gemini_api.function_call("look", id="call_2", at={"x": 4}),
    ),
}


@BOTH
async def test_calls_of_tools_and_their_results_go_round(kind: Provider) -> None:
    async with opened(kind, CALLS[kind], FAKES[kind].says()) as (target, api):
        first = await whole(target, tools=TOOLS)
        asked = first["choices"][0]["message"]
        assert first["choices"][0]["finish_reason"] == "tool_calls" and asked["content"] == "looking"
        assert [each["id"] for each in asked["tool_calls"]] == ["call_1", "call_2"]
        assert msgspec.json.decode(asked["tool_calls"][1]["function"]["arguments"]) == {"at": {"x": 4}}
        results = [{"role": "tool", "tool_call_id": f"call_{n}", "content": f"seen {n}"} for n in (1, 2)]
        await whole(target, tools=TOOLS, messages=[*HELLO, asked, *results])
    if kind == "anthropic":
        _, said, answered = api.body["messages"]
        assert [block["type"] for block in said["content"]] == ["text", "tool_use", "tool_use"]
        assert said["content"][2]["input"] == {"at": {"x": 4}}
        assert [(b["tool_use_id"], b["content"]) for b in answered["content"]] == [
            ("call_1", "seen 1"),
            ("call_2", "seen 2"),
        ]
    else:
        _, said, answered = api.body["contents"]
        assert said["parts"][0]["text"] == "looking"
        assert [part["functionCall"]["id"] for part in said["parts"][1:]] == ["call_1", "call_2"]
        assert [part["functionResponse"]["response"] for part in answered["parts"]] == [
            {"result": "seen 1"},
            {"result": "seen 2"},
        ]


@BOTH
async def test_calls_in_a_stream_are_counted_from_nought_and_come_whole(kind: Provider) -> None:
    async with opened(kind, CALLS[kind]) as (target, _):
        _, out = await streamed(target, tools=TOOLS)
    calls: dict[int, list[str]] = {}
    for chunk in out.chunks:
        for each in chunk["choices"][0]["delta"].get("tool_calls", ()):
            calls.setdefault(each["index"], []).append(each["function"]["arguments"] or "")
    assert {n: msgspec.json.decode("".join(pieces)) for n, pieces in calls.items()} == {
        0: {"at": {"x": 3}},
        1: {"at": {"x": 4}},
    }
    assert out.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_thoughts_go_back_with_their_signature() -> None:
    reply = anthropic_api.says(anthropic_api.thinking("hm", "signed"), anthropic_api.text("yes"))
    async with opened("anthropic", reply) as (target, api):
        said = (await whole(target))["choices"][0]["message"]
        _, out = await streamed(target)
        await whole(target, messages=[*HELLO, said, *HELLO])
    assert said["reasoning"] == "hm" and said["content"] == "yes"
    assert any(chunk["choices"][0]["delta"].get("reasoning") == "hm" for chunk in out.chunks)
    assert api.body["messages"][1]["content"][0] == {
        "type": "thinking",
        "thinking": "hm",
        "signature": "signed",
    }


async def test_geminis_signature_goes_back_with_its_call() -> None:
    signature = base64.b64encode(b"signed").decode()
    called = {**gemini_api.function_call("look", id="c1", at={"x": 3}), "thoughtSignature": signature}
    async with opened("gemini", gemini_api.says(called)) as (target, api):
        said = (await whole(target, tools=TOOLS))["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": "c1", "content": "seen"}
        await whole(target, tools=TOOLS, messages=[*HELLO, said, result])
    assert api.body["contents"][1]["parts"][0]["thoughtSignature"].rstrip("=") == signature.rstrip("=")


# -- errors


@BOTH
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "told"), [(403, 502), (404, 502), (429, 429), (500, 502), (503, 502), (529, 502)]
)
async def test_a_provider_that_cannot_answer_is_asked_once_and_passed_over(
    kind: Provider, stream: bool, status: int, told: int
) -> None:
    reply = FAKES[kind].fails(status, "SOME_KIND", f"key {KEY}", headers={"retry-after": "7"})
    async with opened(kind, reply) as (target, api):
        with pytest.raises(TargetError) as raised:
            await target.answer(call(stream=stream))
        assert len(api.requests) == 1
    assert raised.value.status == told and KEY not in str(raised.value)
    assert raised.value.retry_after_s == 7.0 and raised.value.again == (status >= 429)


async def test_the_delay_that_google_writes_into_the_body_is_read() -> None:
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}
    async with opened("gemini", gemini_api.fails(429, "RESOURCE_EXHAUSTED", details=[delay])) as (target, _):
        with pytest.raises(TargetError) as raised:
            await target.answer(call())
    assert raised.value.retry_after_s == 37.0


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_request_is_told_in_the_providers_words_without_key_and_address(
    kind: Provider, stream: bool
) -> None:
    async with APIS[kind]() as api:
        api.replies = [FAKES[kind].fails(400, "INVALID", f"temperature is wrong; {KEY} at {api.url}/v1")]
        target = AdapterTarget("t", kind, MODELS[kind], None, key=KEY, base_url=api.url)
        with pytest.raises(ApiError) as raised:
            await target.answer(call(stream=stream))
        await target.close()
    assert raised.value.status == 400 and raised.value.message.startswith("temperature is wrong; … at …")
    assert KEY not in raised.value.message and str(api.port) not in raised.value.message


@BOTH
async def test_a_wrong_key_is_the_operators_fault_and_not_the_clients(kind: Provider) -> None:
    async with opened(kind, key="wrong-key") as (target, api):
        with pytest.raises(TargetError) as raised:
            await target.answer(call())
        assert len(api.requests) == 1
    assert raised.value.status == 502 and "wrong-key" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "status", "word", "message"),
    [
        ("anthropic", 400, "invalid_request_error", "Your credit balance is too low to access the API."),
        ("gemini", 400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
    ],
)
async def test_what_only_the_operator_can_mend_is_not_told_to_clients(
    kind: Provider, status: int, word: str, message: str
) -> None:
    async with opened(kind, FAKES[kind].fails(status, word, message)) as (target, _):
        with pytest.raises(TargetError, match=r"^status 400$"):
            await target.answer(call())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("anthropic", "prompt is too long: 210000 tokens > 200000 maximum"),
        ("gemini", "The input token count (9) exceeds the maximum number of tokens allowed (8)."),
    ],
)
async def test_a_prompt_that_is_too_long_here_may_fit_elsewhere(kind: Provider, message: str) -> None:
    async with opened(kind, FAKES[kind].fails(400, "INVALID_ARGUMENT", message)) as (target, _):
        with pytest.raises(UnableError) as raised:
            await target.answer(call())
    assert raised.value.refusal.code == "context_length_exceeded" and raised.value.refusal.message == message


@BOTH
async def test_a_provider_that_is_not_there_may_be_asked_again_at_once(kind: Provider) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        target = AdapterTarget("t", kind, MODELS[kind], None, key=KEY, base_url=url)
        began = time.monotonic()
        with pytest.raises(TargetError) as raised:
            await target.answer(call())
        await target.close()
    assert raised.value.status == 503 and raised.value.again and time.monotonic() - began < 2


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_ends_the_waiting_and_the_request(kind: Provider, stream: bool) -> None:
    async with opened(kind, FAKES[kind].says(delay_s=20)) as (target, api):
        began = time.monotonic()
        with pytest.raises(TargetError) as raised:
            await target.answer(call(left_s=0.2, stream=stream))
        assert raised.value.status == 504 and time.monotonic() - began < 2
        await asyncio.wait_for(api.left.wait(), 2)


# -- streams that break, and clients that leave


@BOTH
async def test_a_stream_that_begins_with_an_error_is_no_answer(kind: Provider) -> None:
    async with opened(kind, FAKES[kind].says(fail_after=0)) as (target, api):
        api.replies = [Scripted(**{**_fields(api.replies[0]), "kind": "overloaded_error"})]
        with pytest.raises(TargetError) as raised:
            await begun(target)
    assert raised.value.status == 502


def _fields(reply: Scripted) -> dict[str, Any]:
    return {name: getattr(reply, name) for name in reply.__dataclass_fields__}


@BOTH
@pytest.mark.parametrize("how", ["drop_after", "fail_after"])
async def test_a_stream_that_breaks_after_its_first_byte_is_broken(kind: Provider, how: str) -> None:
    after = 5 if kind == "anthropic" else 2  # events, of which some say nothing
    async with opened(kind, FAKES[kind].says(**{how: after})) as (target, _):
        stream, out = await begun(target), Outlet()
        with pytest.raises(BrokenStreamError):
            await stream.relay(out)
        await stream.close()
    assert out.text and out.text != "open below, closed above"


async def test_a_stream_without_a_reason_for_its_end_is_broken() -> None:
    async with opened("gemini", gemini_api.says(stop="")) as (target, _):
        with pytest.raises(BrokenStreamError, match="before its end"):
            await streamed(target)


@BOTH
async def test_a_client_that_leaves_stops_the_provider(kind: Provider) -> None:
    long = FAKES[kind].says(FAKES[kind].text("word " * 50), stall_after=20)
    async with opened(kind, long) as (target, api):
        stream, out = await begun(target), Outlet()
        relaying = asyncio.ensure_future(stream.relay(out))
        await out.first.wait()
        assert not api.left.is_set()  # planted: it would go on
        relaying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await relaying
        counted = stream.relayed
        await stream.last_words()
        assert stream.relayed == counted > 0
        await stream.close()
        await asyncio.wait_for(api.left.wait(), 2)
        assert api.sent <= 20


@BOTH
async def test_a_client_that_leaves_before_the_first_byte_stops_the_provider(kind: Provider) -> None:
    async with opened(kind, FAKES[kind].says(stall_after=0)) as (target, api):
        asking = asyncio.ensure_future(begun(target))
        while not api.requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(api.left.wait(), 2)


@BOTH
async def test_a_client_that_leaves_near_the_end_is_charged_what_the_provider_counted(kind: Provider) -> None:
    async with opened(kind) as (target, _):
        stream = await begun(target)
        counted = stream.relayed
        await stream.last_words()
        await stream.close()
    assert stream.usage is not None and stream.usage.output_tokens == 4 and stream.relayed == counted


# -- keys, and what the library does on its own


@BOTH
async def test_neither_key_nor_prompt_is_logged(kind: Provider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with opened(kind, FAKES[kind].fails(500, "X", KEY), FAKES[kind].says()) as (target, _):
        with pytest.raises(TargetError):
            await target.answer(call(messages=[{"role": "user", "content": "the-prompt"}]))
        await streamed(target, messages=[{"role": "user", "content": "the-prompt"}])
    assert caplog.text and KEY not in caplog.text and "the-prompt" not in caplog.text


@BOTH
async def test_nothing_of_the_environment_decides_key_or_address(
    kind: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, "other-key")
    for name in ("ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "HTTP_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v9")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Api-Key: other-key\nAuthorization: Bearer other-key")
    async with opened(kind) as (target, api):
        await whole(target)
    assert "other-key" not in str(api.requests[0].headers)


@BOTH
async def test_a_missing_extra_is_said_when_the_target_is_made(
    kind: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "any_llm", None)
    with pytest.raises(MissingExtraError) as raised:
        AdapterTarget("t", kind, "m", None, key=KEY)
    assert raised.value.hint == "pip install 'dutchdoor[adapters]'"
