"""Anthropic's messages as chat completions and back, without a client between."""

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from dutchdoor.gateway.dialects.messages import MessagesDialect
from dutchdoor.gateway.errors import ApiError, BrokenStreamError, bad_parameter
from tests.unit.gateway.dialects.front import call, chunk, completion, events, used

DIALECT = MessagesDialect()
ASK: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
STREAM_EVENT: Any = TypeAdapter(RawMessageStreamEvent)
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "ü"}}


def read(**more: Any) -> Any:
    """What the target is sent."""
    return json.loads(DIALECT.read(json.dumps(ASK | more).encode()).body)


def turn(*content: Any, role: str = "user") -> Any:
    return {"role": role, "content": list(content)}


def messages(*turns: Any) -> Any:
    return read(messages=list(turns))["messages"]


def answer(said: bytes, **asked: Any) -> Any:
    """A whole answer, held against the client's own types."""
    body = DIALECT.answer(call(DIALECT.read(json.dumps(ASK | asked).encode())), said)
    Message.model_validate_json(body)
    return json.loads(body)


def stream(*pieces: bytes, **asked: Any) -> list[tuple[str, Any]]:
    """A stream's events, held against the client's own types."""
    translator = DIALECT.translator(call(DIALECT.read(json.dumps(ASK | {"stream": True} | asked).encode())))
    written = b"".join(translator.feed(piece) for piece in pieces) + translator.end(used())
    found = events(written)
    for name, data in found:
        assert name == data["type"]
        if name != "ping":
            STREAM_EVENT.validate_python(data)
    return found


def test_what_the_gateway_needs_is_read() -> None:
    content = turn({"type": "text", "text": "hällo"}, IMAGE, IMAGE)
    asked = DIALECT.read(json.dumps(ASK | {"messages": [content], "system": "be", "stream": True}).encode())
    assert (asked.operation, asked.model, asked.cap, asked.choices) == ("chat", "m", 50, 1)
    assert (asked.stream, asked.include_usage, asked.prompts) == (True, True, 2)
    assert (asked.said, asked.attachments) == (len("hällobe".encode()), 2)


def test_fields_that_nobody_knows_are_passed_on() -> None:
    sent = read(
        top_k=40, temperature=0.1, top_p=0.9, min_p=0.05, seed=1 << 60, chat_template_kwargs={"a": [1]}
    )
    assert (sent["top_k"], sent["temperature"], sent["top_p"], sent["min_p"]) == (40, 0.1, 0.9, 0.05)
    assert (sent["seed"], sent["chat_template_kwargs"]) == (1 << 60, {"a": [1]})


def test_options_get_their_other_names() -> None:
    sent = read(
        stop_sequences=["x"],
        metadata={"user_id": "u"},
        service_tier="standard_only",
        thinking={"type": "adaptive"},
        speed="standard",
        cache_control={"type": "ephemeral"},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        tools=[{"name": "f", "input_schema": {"type": "object"}, "strict": True, "type": "custom"}],
        tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    )
    assert sent == {
        "model": "m",
        "max_tokens": 50,
        "messages": ASK["messages"],
        "stop": ["x"],
        "user": "u",
        "service_tier": "default",
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
        },
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
    }


def test_thinking_goes_to_the_target_in_the_clients_words() -> None:
    wish = {"type": "enabled", "budget_tokens": 2000}
    assert read(thinking=wish)["thinking"] == wish


def test_results_stand_behind_their_calls_and_images_in_them_behind_all() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "so"}, IMAGE]}
    failed = {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True}
    assert messages(
        turn({"type": "text", "text": "look"}),
        turn(
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "I do"},
            USE,
            USE | {"id": "t2", "caller": {"type": "direct"}},
            role="assistant",
        ),
        turn(result, failed, {"type": "text", "text": "and?"}),
    )[1:] == [
        {
            "role": "assistant",
            "content": "I do",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": each, "type": "function", "function": {"name": "look", "arguments": '{"at":"ü"}'}}
                for each in ("t1", "t2")
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "so"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "From the result of t1:"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                {"type": "text", "text": "and?"},
            ],
        },
    ]


def test_images_in_results_are_shown_before_the_assistant_goes_on() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [IMAGE]}
    sent = messages(
        turn(USE, role="assistant"),
        turn(result),
        turn({"type": "text", "text": "so"}, role="assistant"),
        turn(IMAGE),
    )
    assert [each["role"] for each in sent] == ["assistant", "tool", "user", "assistant", "user"]
    assert sent[1]["content"] == ""
    assert sent[2]["content"][1]["type"] == "image_url"
    assert messages(turn(USE, role="assistant"), turn(result))[-1]["role"] == "user"


def test_turns_of_one_side_are_one_turn() -> None:
    assert messages(
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "system", "content": "c"}
    ) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "system", "content": "c"},
    ]


def test_documents_are_files_or_text() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "aWI="}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    blocks = {"type": "content", "content": [{"type": "text", "text": "in"}, IMAGE]}
    documents = [
        {"type": "document", "source": pdf, "title": "t.pdf"},
        {"type": "document", "source": plain, "title": "T", "context": "C", "citations": {"enabled": False}},
        {"type": "document", "source": blocks},
    ]
    parts = messages(turn(*documents))[0]["content"]
    assert parts[0] == {
        "type": "file",
        "file": {"filename": "t.pdf", "file_data": "data:application/pdf;base64,aWI="},
    }
    assert [part["text"] for part in parts[1:5]] == ["T", "C", "words", "in"]
    assert parts[5]["type"] == "image_url"


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": "5"}),
    ("messages", {"messages": []}),
    ("messages[1].content", {"messages": [turn(IMAGE, role="user"), turn(role="assistant"), turn(IMAGE)]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": ""}]}),
    ("messages[0].role", {"messages": [{"role": "tool", "content": "x"}]}),
    ("messages[0].content[0].type", {"messages": [turn({"type": "server_tool_use"})]}),
    ("messages[0].content[0].type", {"messages": [turn({"type": "redacted_thinking", "data": "x"})]}),
    ("messages[0].content[0].type", {"messages": [turn(USE)]}),
    (
        "messages[0].content[0].source.type",
        {"messages": [turn({"type": "image", "source": {"type": "file"}})]},
    ),
    ("messages[0].content[0].new", {"messages": [turn({"type": "text", "text": "x", "new": 1})]}),
    (
        "messages[0].content[0].citations",
        {"messages": [turn({"type": "text", "text": "x", "citations": [{"type": "char_location"}]})]},
    ),
    ("messages[1].role", {"messages": [*ASK["messages"], {"role": "assistant", "content": "{"}]}),
    ("tools[0].type", {"tools": [{"type": "web_search_20260318", "name": "web_search", "max_uses": 2}]}),
    ("tools[0].defer_loading", {"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}),
    ("tools[0].input_schema", {"tools": [{"name": "f"}]}),
    ("tool_choice.name", {"tool_choice": {"type": "tool"}}),
    ("thinking.type", {"thinking": {}}),
    ("output_config.task_budget", {"output_config": {"task_budget": {}}}),
    ("container", {"container": "c"}),
    ("mcp_servers", {"mcp_servers": [{}]}),
    ("inference_geo", {"inference_geo": "eu"}),
    ("speed", {"speed": "fast"}),
    ("n", {"n": 3}),
    ("max_completion_tokens", {"max_completion_tokens": 9}),
    ("stop", {"stop": "x"}),
    ("logprobs", {"logprobs": True}),
]


@pytest.mark.parametrize(("param", "more"), REFUSED)
def test_what_has_no_place_is_refused_by_name(param: str, more: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        read(**more)
    assert (caught.value.status, caught.value.param) == (400, param)
    told = json.loads(DIALECT.error(caught.value))["error"]
    assert (told["type"], told["details"]["param"]) == ("invalid_request_error", param)


def test_off_is_not_refused() -> None:
    assert "n" not in read(n=None, container=None, mcp_servers=[], logprobs=False)


def test_a_prefill_is_for_targets_that_are_told_of_it() -> None:
    sent = read(
        messages=[*ASK["messages"], {"role": "assistant", "content": "{"}],
        continue_final_message=True,
        add_generation_prompt=False,
    )
    assert sent["messages"][-1] == {"role": "assistant", "content": "{"}
    assert sent["continue_final_message"] is True


@pytest.mark.parametrize(
    ("finish", "more", "reason"),
    [
        ("stop", {}, "end_turn"),
        ("length", {}, "max_tokens"),
        ("tool_calls", {}, "tool_use"),
        ("content_filter", {}, "refusal"),
        ("abort", {}, "end_turn"),
        (None, {}, "end_turn"),
        ("stop", {"stop_reason": "END"}, "stop_sequence"),
        ("stop", {"stop_reason": 128009}, "end_turn"),
        ("stop", {"stop_reason": "no such"}, "end_turn"),
    ],
)
def test_every_finish_has_a_stop_reason(finish: Any, more: dict[str, Any], reason: str) -> None:
    whole = answer(completion({"content": "x"}, finish, choice=more), stop_sequences=["END"])
    assert whole["stop_reason"] == reason
    assert whole["stop_sequence"] == ("END" if reason == "stop_sequence" else None)
    last = stream(chunk({"content": "x"}, finish, choice=more), stop_sequences=["END"])[-2]
    assert last[1]["delta"] == {"stop_reason": reason, "stop_sequence": whole["stop_sequence"]}


def test_a_call_demanded_by_name_ends_with_tool_use() -> None:
    asked = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert answer(completion({"tool_calls": [asked]}))["stop_reason"] == "tool_use"


def test_arguments_that_are_no_object_are_not_thrown_away() -> None:
    for given, read_as in (
        ("", {}),
        ('{"a":1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ('{"a":', {"unreadable_arguments": '{"a":'}),
        ("[1]", {"unreadable_arguments": "[1]"}),
    ):
        asked = {"type": "function", "function": {"name": "f", "arguments": given}}
        block = answer(completion({"content": "", "tool_calls": [asked]}))["content"][0]
        assert (block["input"], block["id"]) == (read_as, "toolu_0123_0")


def test_thoughts_come_first_and_can_be_left_out() -> None:
    said = completion({"content": "x", "reasoning_content": "hm"})
    assert [block["type"] for block in answer(said)["content"]] == ["thinking", "text"]
    omitted = {"thinking": {"type": "adaptive", "display": "omitted"}}
    assert [block["type"] for block in answer(said, **omitted)["content"]] == ["text"]
    pieces = (chunk({"reasoning": "hm"}), chunk({"content": "x"}, "stop"))
    started = [
        data["content_block"]["type"] for name, data in stream(*pieces) if name == "content_block_start"
    ]
    assert started == ["thinking", "text"]
    found = [(name, data) for name, data in stream(*pieces, **omitted) if name == "content_block_start"]
    assert [(data["index"], data["content_block"]["type"]) for _, data in found] == [(0, "text")]


def test_mistrals_lists_of_content_are_read() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    content = answer(completion({"content": [thought, {"type": "text", "text": "x"}]}))["content"]
    assert [block.get("thinking") or block.get("text") for block in content] == ["hm", "x"]


def test_an_answer_that_is_no_chat_completion_is_502() -> None:
    for said in (b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{}]}', b"\xff", b"[" * 100_000):
        with pytest.raises(ApiError) as caught:
            answer(said)
        assert caught.value.status == 502


def test_an_empty_stream_has_a_beginning_and_an_end() -> None:
    assert [name for name, _ in stream()] == ["message_start", "message_delta", "message_stop"]


def test_calls_side_by_side_are_told_one_after_the_other() -> None:
    def piece(index: int, text: str, **more: Any) -> bytes:
        function = {"arguments": text} | ({"name": "f"} if more else {})
        return chunk({"tool_calls": [{"index": index, "function": function} | more]})

    found = stream(
        piece(0, "", id="a"),
        piece(1, "", id="b"),
        piece(0, '{"x"'),
        piece(1, '{"y":2}'),
        piece(0, ":1}"),
        chunk({}, "stop"),
    )
    told = [
        (name, data.get("index"), data.get("delta", {}).get("partial_json")) for name, data in found[1:-2]
    ]
    assert told == [
        ("content_block_start", 0, None),
        ("content_block_delta", 0, '{"x"'),
        ("content_block_delta", 0, ":1}"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, None),
        ("content_block_delta", 1, '{"y":2}'),
        ("content_block_stop", 1, None),
    ]


@pytest.mark.parametrize("index", [None, 0])
def test_calls_without_numbers_are_told_apart_by_their_ids(index: int | None) -> None:
    where = {} if index is None else {"index": index}
    asked = [{"id": each, "function": {"name": each, "arguments": "{}"}} | where for each in ("a", "b")]
    found = stream(chunk({"tool_calls": asked}), chunk({}, "tool_calls"))
    assert [data["content_block"]["id"] for name, data in found if name == "content_block_start"] == [
        "a",
        "b",
    ]


def test_arguments_behind_a_whole_call_break_the_stream() -> None:
    asked = [
        {"index": each, "id": str(each), "function": {"name": "f", "arguments": "{}"}} for each in (0, 1)
    ]
    with pytest.raises(BrokenStreamError):
        stream(
            chunk({"tool_calls": asked}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}),
        )


def test_an_event_that_is_no_chunk_breaks_the_stream() -> None:
    for event in (b"data: no\n\n", b'data: {"choices":[{"delta":{"content":5}}]}\n\n', b"data: \xff\n\n"):
        with pytest.raises(BrokenStreamError) as caught:
            stream(event)
        assert isinstance(caught.value, ValueError)  # what whoever feeds it watches for


def test_a_refusal_is_text_that_stops_as_one() -> None:
    whole = answer(completion({"content": None, "refusal": "I won't"}))
    assert (whole["content"][0]["text"], whole["stop_reason"]) == ("I won't", "refusal")
    assert stream(chunk({"refusal": "I won't"}, "stop"))[-2][1]["delta"]["stop_reason"] == "refusal"


def test_the_usage_of_a_stream_is_what_was_booked() -> None:
    told = chunk(usage={"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 900}})
    usage = stream(chunk({"content": "x"}, "stop"), told)[-2][1]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (0, 20, 7)


def test_what_was_cached_is_known_from_the_booking_too() -> None:
    asked = call(DIALECT.read(json.dumps(ASK | {"stream": True}).encode()))
    told = events(DIALECT.translator(asked).end(used(cached_tokens=5)))[-2][1]["usage"]
    assert (told["input_tokens"], told["cache_read_input_tokens"]) == (15, 5)


def test_only_parameters_are_renamed() -> None:
    error = json.loads(
        DIALECT.error(bad_parameter("parallel_tool_calls", "'parallel_tool_calls' is not 'stop'."))
    )
    assert error["error"]["message"] == "'tool_choice.disable_parallel_tool_use' is not 'stop'."
    assert json.loads(DIALECT.error(ApiError(405, "no")))["error"] == {
        "type": "invalid_request_error",
        "message": "no",
        "details": None,
    }
