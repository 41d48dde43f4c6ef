"""OpenAI's responses as chat completions and back, without a client between."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from dutchdoor.gateway.dialects.responses import ResponsesDialect
from dutchdoor.gateway.errors import ApiError, unsupported
from tests.unit.gateway.dialects.front import call, chunk, completion, events, used

DIALECT = ResponsesDialect()
ASK: dict[str, Any] = {"model": "m", "input": "hello"}
STREAM_EVENT: Any = TypeAdapter(ResponseStreamEvent)
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "so"}
PIECE = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}


def read(**more: Any) -> Any:
    """What the target is sent."""
    return json.loads(DIALECT.read(json.dumps(ASK | more).encode()).body)


def items(*given: Any) -> Any:
    return read(input=list(given))["messages"]


def answer(said: bytes, **asked: Any) -> Any:
    """A whole answer, held against the client's own types."""
    body = DIALECT.answer(call(DIALECT.read(json.dumps(ASK | asked).encode())), said)
    Response.model_validate_json(body)
    return json.loads(body)


def stream(*pieces: bytes, **asked: Any) -> list[tuple[str, Any]]:
    """A stream's events, held against the client's own types and its own numbers."""
    translator = DIALECT.translator(call(DIALECT.read(json.dumps(ASK | {"stream": True} | asked).encode())))
    found = events(b"".join(translator.feed(piece) for piece in pieces) + translator.end(used()))
    for number, (name, data) in enumerate(found):
        assert (name, number) == (data["type"], data["sequence_number"])
        STREAM_EVENT.validate_python(data)
    return found


def test_what_the_gateway_needs_is_read() -> None:
    asked = DIALECT.read(
        json.dumps(ASK | {"instructions": "bé", "max_output_tokens": 9, "stream": True}).encode()
    )
    assert (asked.operation, asked.model, asked.cap, asked.choices) == ("chat", "m", 9, 1)
    assert (asked.stream, asked.include_usage, asked.prompts, asked.said) == (True, True, 2, 8)


def test_options_get_their_other_names() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    sent = read(
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": schema, "verbosity": "low"},
        tools=[{"type": "function", "name": "f", "parameters": None, "strict": None, "description": "d"}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=3,
        store=False,
        truncation="disabled",
        metadata={"a": "b"},
        seed=3,
        prompt_cache_key="k",
    )
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
        "tools": [{"type": "function", "function": {"name": "f", "description": "d"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "logprobs": True,
        "top_logprobs": 3,
        "seed": 3,
        "prompt_cache_key": "k",
    }


def test_a_choice_among_some_tools_is_carried_over() -> None:
    some = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    assert read(tool_choice=some)["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
    }
    assert read(tool_choice="none")["tool_choice"] == "none"


def test_items_of_one_step_are_one_message() -> None:
    reasoning = {
        "type": "reasoning",
        "id": "rs",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    said = {
        "type": "message",
        "id": "msg",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I do", "annotations": [], "logprobs": []}],
    }
    image = {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"}
    shown = RESULT | {"call_id": "c2", "output": [{"type": "input_text", "text": "it"}, image]}
    assert items(
        {"role": "developer", "content": "be"},
        {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
        reasoning,
        said,
        CALL,
        CALL | {"call_id": "c2"},
        RESULT,
        shown,
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d"},
    ) == [
        {"role": "system", "content": "be"},
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": "I do",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": each, "type": "function", "function": {"name": "look", "arguments": "{}"}}
                for each in ("c1", "c2")
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "so"},
        {"role": "tool", "tool_call_id": "c2", "content": "it"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "From the result of c2:"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                {"type": "text", "text": "a"},
            ],
        },
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]


def test_nothing_comes_between_a_call_and_its_result() -> None:
    said = [{"role": "assistant", "content": text} for text in ("a", "b")]
    message, result = items(said[0], CALL, said[1], RESULT)
    assert [part["text"] for part in message["content"]] == ["a", "b"]
    assert (len(message["tool_calls"]), result["role"]) == (1, "tool")


def test_a_summary_stands_for_reasoning_that_was_not_told() -> None:
    summed = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "sum"}]}
    assert items(summed, CALL)[0]["reasoning_content"] == "sum"


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("input", {"input": []}),
    ("input", {"input": None}),
    ("input", {"input": [{"role": "assistant", "content": []}]}),
    ("max_output_tokens", {"max_output_tokens": 0}),
    ("store", {"store": True}),
    ("previous_response_id", {"previous_response_id": "resp_1"}),
    ("conversation", {"conversation": {"id": "c"}}),
    ("background", {"background": True}),
    ("prompt", {"prompt": {"id": "p"}}),
    ("truncation", {"truncation": "auto"}),
    ("include[0]", {"include": ["file_search_call.results"]}),
    ("reasoning.summary", {"reasoning": {"summary": "detailed"}}),
    ("reasoning.mode", {"reasoning": {"mode": "pro"}}),
    ("reasoning.new", {"reasoning": {"new": 1}}),
    ("stream_options.include_obfuscation", {"stream": True, "stream_options": {"include_obfuscation": True}}),
    ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "n"}}}),
    ("text.format.type", {"text": {"format": {"type": "grammar"}}}),
    ("tools[0].type", {"tools": [{"type": "web_search", "filters": {}}]}),
    ("tools[0].defer_loading", {"tools": [{"type": "function", "name": "f", "defer_loading": True}]}),
    ("tools[0].async", {"tools": [{"type": "function", "name": "f", "async": True}]}),
    ("tool_choice", {"tool_choice": "some"}),
    ("tool_choice.type", {"tool_choice": {"type": "web_search_preview"}}),
    ("tool_choice.name", {"tool_choice": {"type": "function"}}),
    ("input[0].type", {"input": [{"type": "item_reference", "id": "x"}]}),
    ("input[0].role", {"input": [{"role": "tool", "content": "x"}]}),
    ("input[0].phase", {"input": [{"role": "assistant", "content": "x", "phase": "commentary"}]}),
    (
        "input[0].encrypted_content",
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
    ),
    ("input[1].namespace", {"input": [CALL, RESULT | {"namespace": "n"}]}),
    (
        "input[0].output[0].file_url",
        {"input": [RESULT | {"output": [{"type": "input_file", "file_url": "u"}]}]},
    ),
    (
        "input[0].content[0].file_id",
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
    ),
    (
        "input[0].content[0].type",
        {"input": [{"role": "user", "content": [{"type": "output_text", "text": "f"}]}]},
    ),
    ("n", {"n": 2}),
    ("max_tokens", {"max_tokens": 2}),
    ("messages", {"messages": [{}]}),
]


@pytest.mark.parametrize(("param", "more"), REFUSED)
def test_what_has_no_place_is_refused_by_name(param: str, more: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        read(**more)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert json.loads(DIALECT.error(caught.value))["error"]["param"] == param


def test_off_is_not_refused() -> None:
    off = read(
        store=False, background=None, previous_response_id=None, include=[], reasoning={"summary": "auto"}
    )
    assert off == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_what_a_target_cannot_do_is_named_as_the_client_wrote_it() -> None:
    told = json.loads(DIALECT.error(unsupported("messages[1].reasoning_content", "target 't'")))["error"]
    assert (told["param"], told["message"].split(" is ")[0]) == ("input", "Unsupported parameter: 'input'")


def test_an_answer_tells_what_was_asked() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    whole = answer(
        completion({"content": "x"}, service_tier="flex"),
        tools=[tool],
        tool_choice="required",
        text={"verbosity": "low"},
        reasoning={"effort": "low"},
        user="u",
    )
    assert whole["tools"] == [tool]
    assert (whole["tool_choice"], whole["user"], whole["service_tier"]) == ("required", "u", "flex")
    assert whole["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert whole["reasoning"] == {"effort": "low", "summary": None}
    assert (whole["store"], whole["created_at"], whole["error"]) == (False, 1_790_000_000, None)


def test_usage_tells_what_was_cached_and_thought() -> None:
    counts = {
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 15},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    usage = answer(completion({"content": "x"}, usage=counts))["usage"]
    assert usage == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 15, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 27,
    }
    assert stream(chunk({"content": "x"}, "stop"), chunk(usage=counts))[-1][1]["response"]["usage"] == usage
    assert answer(completion({"content": "x"}, usage=None))["usage"] is None


def test_a_stream_ends_with_what_the_whole_answer_is() -> None:
    pieces = [
        chunk({"reasoning_content": "h"}),
        chunk({"reasoning_content": "m"}),
        chunk(
            {"content": "a"},
            choice={
                "logprobs": {"content": [{"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": []}]}
            },
        ),
        chunk(
            {"content": "b"},
            choice={
                "logprobs": {"content": [{"token": "b", "logprob": -2, "bytes": [98], "top_logprobs": []}]}
            },
        ),
        chunk({"tool_calls": [PIECE]}),
        chunk({}, "tool_calls"),
    ]
    tokens = [
        {"token": t, "logprob": p, "bytes": [ord(t)], "top_logprobs": []} for t, p in (("a", -1), ("b", -2))
    ]
    asked = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    said = completion(
        {"reasoning_content": "hm", "content": "ab", "tool_calls": [asked]},
        "tool_calls",
        choice={"logprobs": {"content": tokens}},
    )
    name, last = stream(*pieces)[-1]
    assert name == "response.completed"
    assert last["response"] == answer(said)


def test_logprobs_in_another_form_are_none() -> None:
    for given in ([1], "x", {"tokens": []}, {"content": None}, {"content": {}}, None):
        found = stream(chunk({"content": "x"}, "stop", choice={"logprobs": given}))
        assert [data["logprobs"] for name, data in found if name == "response.output_text.delta"] == [[]]


def test_an_answer_that_is_cut_is_incomplete() -> None:
    for finish, reason in (("length", "max_output_tokens"), ("content_filter", "content_filter")):
        name, last = stream(chunk({"content": "x"}), chunk({}, finish))[-1]
        assert (name, last["response"]["incomplete_details"]) == ("response.incomplete", {"reason": reason})
        assert last["response"] == answer(completion({"content": "x"}, finish))
        assert last["response"]["output"][0]["status"] == (
            "incomplete" if finish == "length" else "completed"
        )


def test_a_refusal_is_a_part_of_its_own() -> None:
    found = stream(chunk({"refusal": "I "}), chunk({"refusal": "won't"}, "stop"))
    assert [data["refusal"] for name, data in found if name == "response.refusal.done"] == ["I won't"]
    whole = answer(completion({"content": None, "refusal": "I won't"}))
    assert whole["output"][0]["content"] == [{"type": "refusal", "refusal": "I won't"}]


def test_a_broken_stream_keeps_its_numbers() -> None:
    translator = DIALECT.translator(call(DIALECT.read(json.dumps(ASK | {"stream": True}).encode())))
    found = events(translator.feed(chunk({"content": "x"})) + translator.broken("It broke off."))
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    assert found[-1][1]["response"]["status"] == "failed"
    STREAM_EVENT.validate_python(found[-1][1])
    early = DIALECT.translator(call(DIALECT.read(json.dumps(ASK).encode()))).broken("It broke off.")
    assert [name for name, _ in events(early)] == [
        "response.created",
        "response.in_progress",
        "response.failed",
    ]
    ((name, data),) = events(DIALECT.broken("It broke off."))
    assert (name, data["message"]) == ("error", "It broke off.")
    STREAM_EVENT.validate_python(data)


def test_an_answer_that_is_no_chat_completion_is_502() -> None:
    with pytest.raises(ApiError) as caught:
        answer(b"{}")
    assert caught.value.status == 502
