"""Any body and any stream: what holds for all of them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.gateway.call import TOKENS_PER_PROMPT
from dutchdoor.gateway.dialects import (
    completions,
    embeddings,
    messages_blocks,
    messages_in,
    responses_in,
    responses_items,
)
from dutchdoor.gateway.dialects.completions import CompletionsDialect
from dutchdoor.gateway.dialects.embeddings import EmbeddingsDialect
from dutchdoor.gateway.dialects.interface import Dialect
from dutchdoor.gateway.dialects.messages import MessagesDialect
from dutchdoor.gateway.dialects.responses import ResponsesDialect
from dutchdoor.gateway.errors import ApiError
from tests.unit.gateway.dialects.front import call, chunk, completion, events, used

TRANSLATED: tuple[Dialect, ...] = (MessagesDialect(), ResponsesDialect())
ALL: tuple[Dialect, ...] = (*TRANSLATED, CompletionsDialect(), EmbeddingsDialect())
ASK = {
    "/v1/messages": {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
    },
    "/v1/responses": {"model": "m", "input": "x", "stream": True},
}

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def of(kind: Any) -> Any:
    """Values of a type as msgspec describes it; where a type leaves it open, of any kind."""
    match kind:
        case msgspec.inspect.StructType():
            tag = {} if kind.tag_field is None else {kind.tag_field: st.just(kind.tag)}
            required = {each.encode_name: of(each.type) for each in kind.fields if each.required}
            free = {each.encode_name: of(each.type) for each in kind.fields if not each.required}
            return st.fixed_dictionaries(tag | required, optional=free)
        case msgspec.inspect.UnionType():
            return st.one_of(map(of, kind.types))
        case msgspec.inspect.ListType():
            return st.lists(of(kind.item_type), max_size=2)
        case msgspec.inspect.DictType():
            return st.dictionaries(st.text(max_size=3), of(kind.value_type), max_size=2)
        case msgspec.inspect.LiteralType():
            return st.sampled_from(kind.values)
        case msgspec.inspect.StrType():
            return st.text(max_size=4)
        case msgspec.inspect.IntType():
            return st.integers(1, 3)
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
    return JSON


def typed(struct: type, **fields: Any) -> Any:
    """Values of a struct, some of them with fields of one's own."""
    values = of(msgspec.inspect.type_info(struct))
    return st.builds(lambda value, own: value | own, values, st.fixed_dictionaries(fields))


ITEMS = st.one_of(
    typed(responses_items.MessageItem, type=st.just("message")),
    typed(responses_items.CallItem, type=st.just("function_call")),
    typed(responses_items.ResultItem, type=st.just("function_call_output")),
    typed(responses_items.ReasoningItem, type=st.just("reasoning")),
)
TURNS = st.lists(of(msgspec.inspect.type_info(messages_blocks.Turn)), max_size=3)
ASKED = {
    "/v1/messages": typed(messages_in.Body)
    | typed(messages_in.Body, tools=st.lists(typed(messages_in.Tool, type=st.just("custom")), max_size=1))
    | st.builds(lambda turns: {"model": "m", "max_tokens": 5, "messages": turns}, TURNS),
    "/v1/responses": typed(responses_in.Body)
    | typed(
        responses_in.Body,
        input=st.lists(ITEMS, max_size=3),
        tools=st.lists(typed(responses_in.Tool), max_size=1),
    )
    | st.builds(lambda items: {"model": "m", "input": items}, st.lists(ITEMS, max_size=3)),
    "/v1/completions": typed(completions.Envelope),
    "/v1/embeddings": typed(embeddings.Envelope),
}
NAMES = sorted({name for each in (messages_in.Body, responses_in.Body) for name in each.__struct_fields__})
BODIES = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8)


def only_refused(dialect: Dialect, body: bytes) -> None:
    """Reads a body: it is either understood or refused with 400, and refusals can be told."""
    try:
        asked = dialect.read(body)
    except ApiError as error:
        assert error.status == 400
        json.loads(dialect.error(error))
        return
    json.loads(asked.body)
    assert asked.choices >= 1
    assert call(asked).input_guess <= call(asked).input_bound
    assert asked.prompts * TOKENS_PER_PROMPT < call(asked).input_bound


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.path)
@given(body=st.binary(max_size=40))
def test_bytes_are_read_or_refused(dialect: Dialect, body: bytes) -> None:
    only_refused(dialect, body)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.path)
@given(body=BODIES)
def test_json_is_read_or_refused(dialect: Dialect, body: dict[str, Any]) -> None:
    only_refused(dialect, json.dumps({"model": "m", "max_tokens": 5} | body).encode())


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.path)
@given(data=st.data())
def test_requests_of_the_right_types_are_read_or_refused(dialect: Dialect, data: Any) -> None:
    only_refused(dialect, json.dumps(data.draw(ASKED[dialect.path])).encode())


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.path)
def test_what_is_nested_too_deep_is_refused(dialect: Dialect) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    for name in ("x", "messages", "input", "prompt", "tools", "metadata", "temperature"):
        body = b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x"}],"input":"x","%b":%b}'
        try:
            dialect.read(body % (name.encode(), deep))
        except ApiError as error:
            assert error.status == 400


CALLS = ("a", "b")
TEXT = st.text(max_size=4)
DELTAS: Any = st.one_of(
    st.just({"role": "assistant", "content": None}),
    st.builds(lambda text: {"content": text}, TEXT),
    st.builds(lambda text: {"reasoning_content": text}, TEXT),
    st.builds(lambda text: {"refusal": text}, TEXT),
    st.just({}),
)


@st.composite
def calls(draw: Any) -> list[dict[str, Any]]:
    """The deltas of calls, cut and mixed as it comes."""
    cut: list[list[dict[str, Any]]] = []
    for index, name in enumerate(CALLS[: draw(st.integers(0, 2))]):
        arguments = json.dumps(draw(st.dictionaries(TEXT, TEXT, max_size=2)))
        first = {"index": index, "id": name, "type": "function", "function": {"name": name, "arguments": ""}}
        pieces = [first]
        while arguments:
            size = draw(st.integers(1, 8))
            pieces.append({"index": index, "function": {"arguments": arguments[:size]}})
            arguments = arguments[size:]
        cut.append([{"tool_calls": [piece]} for piece in pieces])
    mixed = []
    while any(cut):
        mixed.append(draw(st.sampled_from([each for each in cut if each])).pop(0))
    return mixed


@st.composite
def chunks(draw: Any) -> list[bytes]:
    """A valid stream of a chat completion, event by event."""
    deltas = draw(st.lists(DELTAS, max_size=6)) + draw(calls())
    pieces = [chunk(delta) for delta in deltas]
    pieces.append(
        chunk(draw(st.sampled_from([{}, {"content": "end"}])), draw(st.sampled_from(["stop", "length"])))
    )
    if draw(st.booleans()):
        pieces.append(chunk(usage={"prompt_tokens": 20, "completion_tokens": 7}))
    for place in draw(st.lists(st.integers(0, len(pieces)), max_size=2)):
        pieces.insert(place, b": ping\n\n")
    return [piece.replace(b"\n", b"\r\n") if draw(st.booleans()) else piece for piece in pieces]


@pytest.mark.parametrize("dialect", TRANSLATED, ids=lambda each: each.path)
@given(pieces=chunks(), data=st.data())
def test_however_a_stream_is_fed_it_says_the_same(dialect: Dialect, pieces: list[bytes], data: Any) -> None:
    asked = call(dialect.read(json.dumps(ASK[dialect.path]).encode()))
    one, other = dialect.translator(asked), dialect.translator(asked)
    assert one is not None
    assert other is not None
    singly = b"".join(one.feed(piece) for piece in pieces) + one.end(used())
    together = b""
    while pieces:
        size = data.draw(st.integers(1, len(pieces)))
        together += other.feed(b"".join(pieces[:size]))
        pieces = pieces[size:]
    assert together + other.end(used()) == singly


def whole_of(pieces: list[bytes]) -> bytes:
    """The whole answer that a stream comes to."""
    message = {"content": "", "reasoning_content": "", "refusal": ""}
    asked: dict[int, dict[str, Any]] = {}
    finish = "stop"
    for piece in pieces:
        if not piece.startswith(b"data:"):
            continue
        for choice in json.loads(piece[5:])["choices"]:
            finish = choice["finish_reason"] or finish
            for name in message:
                message[name] += choice["delta"].get(name) or ""
            for each in choice["delta"].get("tool_calls", ()):
                known = asked.setdefault(
                    each["index"], each | {"function": each["function"] | {"arguments": ""}}
                )
                known["function"]["arguments"] += each["function"]["arguments"]
    return completion({**message, "tool_calls": [asked[index] for index in sorted(asked)]}, finish)


@given(pieces=chunks())
def test_a_stream_and_the_whole_answer_call_the_same(pieces: list[bytes]) -> None:
    messages, responses = TRANSLATED
    asked = call(messages.read(json.dumps(ASK[messages.path]).encode()))
    translator = messages.translator(asked)
    assert translator is not None
    told = events(b"".join(map(translator.feed, pieces)) + translator.end(used()))
    inputs: dict[int, str] = {}
    names: dict[int, str] = {}
    for name, data in told:
        if name == "content_block_start" and data["content_block"]["type"] == "tool_use":
            names[data["index"]], inputs[data["index"]] = data["content_block"]["name"], ""
        elif name == "content_block_delta" and data["index"] in inputs:
            inputs[data["index"]] += data["delta"]["partial_json"]
    streamed = sorted((names[index], json.loads(text)) for index, text in inputs.items())
    whole = json.loads(messages.answer(asked, whole_of(pieces)))
    assert streamed == sorted(
        (each["name"], each["input"]) for each in whole["content"] if each["type"] == "tool_use"
    )
    assert [name for name, _ in told if name.startswith("message_")] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    admitted = call(responses.read(json.dumps(ASK[responses.path]).encode()))
    other = responses.translator(admitted)
    assert other is not None
    last = events(b"".join(map(other.feed, pieces)) + other.end(used()))[-1][1]["response"]
    told_calls = sorted(
        (i["name"], json.loads(i["arguments"])) for i in last["output"] if i["type"] == "function_call"
    )
    assert told_calls == streamed
