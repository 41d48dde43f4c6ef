"""What targets can do: a request that asks for more is refused by name, and one that does not costs nothing."""

import json
from typing import Any

import pytest

from dutchdoor.gateway.call import Asked, Call, Operation
from dutchdoor.gateway.contract import ENGINE, UNKNOWN, Abilities, abilities_of, check, stated
from dutchdoor.gateway.errors import ApiError

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TALK: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def call(*, operation: Operation = "chat", **fields: Any) -> Call:
    """A request with these fields, read as a dialect reads it."""
    body = {"model": "m", "messages": TALK, **fields}
    options = body.get("stream_options") or {}
    asked = Asked(
        operation=operation,
        model="m",
        body=json.dumps(body).encode(),
        cap=body.get("max_completion_tokens", body.get("max_tokens")),
        choices=body.get("best_of") or body.get("n") or 1,
        include_usage=bool(options.get("include_usage")),
    )
    return Call("r", asked, created=0)


def refused(can: Abilities, request: Call) -> ApiError | None:
    try:
        check(can, request, "target 't'")
    except ApiError as error:
        assert error.status == 400 and "target 't'" in error.message
        return error
    return None


@pytest.mark.parametrize(
    ("can", "fields", "param"),
    [
        ("tools", {"tools": [{"type": "function"}]}, "tools"),
        ("tools", {"functions": [{"name": "f"}]}, "functions"),
        ("tools", {"messages": [*TALK, {"role": "tool", "content": "3"}]}, "messages[1].role"),
        (
            "tools",
            {"messages": [*TALK, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "messages[1].tool_calls",
        ),
        ("parallel_tools", {"parallel_tool_calls": True}, "parallel_tool_calls"),
        ("json_schema", {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ("json_object", {"response_format": {"type": "json_object"}}, "response_format"),
        ("logprobs", {"logprobs": True}, "logprobs"),
        ("logprobs", {"top_logprobs": 2}, "top_logprobs"),
        (
            "images",
            {"messages": [*TALK, {"role": "user", "content": [{"type": "text"}, PICTURE]}]},
            "messages[1].content[1]",
        ),
        ("n", {"n": 2}, "n"),
        ("n", {"best_of": 2}, "best_of"),
        ("seed", {"seed": 0}, "seed"),
        ("stream_usage", {"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ("logit_bias", {"logit_bias": {"1": 2}}, "logit_bias"),
        ("top_k", {"top_k": 0}, "top_k"),
    ],
)
def test_what_is_lacking_is_refused_by_the_name_of_its_parameter(
    can: str, fields: dict[str, Any], param: str
) -> None:
    error = refused(stated({can: False}), call(**fields))
    assert error is not None and (error.param, error.code) == (param, "unsupported_parameter")
    assert refused(stated({can: True}), call(**fields)) is None
    assert refused(UNKNOWN, call(**fields)) is None  # what nobody knows is for the target to say


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "parallel_tool_calls": False, "logprobs": False, "n": 1, "seed": None},
        {"response_format": {"type": "text"}, "tools": None},
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": '"image_url" "tools"'}]}]},
        {"messages": [{"role": "user", "content": '{"type": "image_url"}'}]},
        {"stream_options": {"include_usage": False}},
    ],
)
def test_what_is_not_asked_for_is_no_reason_to_refuse(fields: dict[str, Any]) -> None:
    names = ("tools", "parallel_tools", "json_schema", "logprobs", "images", "n", "seed", "stream_usage")
    assert refused(stated(dict.fromkeys(names, False)), call(**fields)) is None


def test_a_name_that_is_written_with_escapes_is_the_same_name() -> None:
    body = b'{"model": "m", "messages": [], "t\\u006fols": [{}]}'
    request = Call("r", Asked(operation="chat", model="m", body=body), created=0)
    error = refused(stated({"tools": False}), request)
    assert error is not None and error.param == "tools"


def test_a_body_is_not_read_where_nothing_restricts_it() -> None:
    body = b"this is no JSON"
    request = Call("r", Asked(operation="chat", model="m", body=body, cap=5), created=0)
    check(UNKNOWN, request, "t")
    check(stated({"tools": True, "context": 4096, "embeddings": False}), request, "t")
    assert "fields" not in request.__dict__


@pytest.mark.parametrize(
    ("can", "fields", "param", "code"),
    [
        ({"context": 100}, {"max_tokens": 100}, "max_tokens", "context_length_exceeded"),
        (
            {"context": 100},
            {"max_completion_tokens": 300},
            "max_completion_tokens",
            "context_length_exceeded",
        ),
        ({"max_output": 50}, {"max_tokens": 51}, "max_tokens", "invalid_value"),
    ],
)
def test_more_output_than_fits_is_refused(
    can: dict[str, int], fields: dict[str, Any], param: str, code: str
) -> None:
    error = refused(stated(can), call(**fields))
    assert error is not None and (error.param, error.code) == (param, code)
    least = {name: value - 250 if value > 250 else value - 1 for name, value in fields.items()}
    assert refused(stated(can), call(**least)) is None
    assert refused(stated(can), call()) is None
    assert refused(stated(can), call(operation="embeddings", **fields)) is None


def test_a_dialect_that_wants_usage_unasked_is_no_reason_to_refuse() -> None:
    asked = Asked(
        operation="chat", model="m", body=b'{"model":"m","messages":[]}', stream=True, include_usage=True
    )
    assert refused(stated({"stream_usage": False}), Call("r", asked, created=0)) is None


def test_an_operation_that_is_not_served_is_said() -> None:
    error = refused(stated({"embeddings": False}), call(operation="embeddings"))
    assert error is not None and (error.param, error.code) == ("model", "unsupported_operation")
    assert refused(stated({"embeddings": False}), call()) is None


def test_an_engine_of_ours_has_neither_tools_nor_images() -> None:
    assert refused(ENGINE, call(seed=1, logprobs=True, max_tokens=5)) is None
    assert refused(ENGINE, call(tools=[{}])) is not None
    assert refused(ENGINE, call(operation="embeddings")) is not None


def test_what_is_declared_goes_before_what_is_known() -> None:
    groq = "https://api.groq.com/openai/v1"
    assert abilities_of({}, url=groq).says("logprobs") is False
    assert abilities_of({"logprobs": True}, url=groq).says("logprobs") is True
    assert abilities_of({"tools": False}, url=groq).says("tools") is False
    assert abilities_of({}, url=groq).says("tools") is True
    assert abilities_of({}, url="http://10.0.0.1:9/v1").says("tools") is None
    assert abilities_of({}, provider="anthropic").says("seed") is False
    both = stated({"context": 5}).over(stated({"context": 9, "max_output": 3, "n": False}))
    assert both.row() == {"context": 5, "max_output": 3, "n": False}


@pytest.mark.parametrize("can", [{"context": True}, {"context": 0}, {"tools": 1}, {"max_output": False}])
def test_what_cannot_be_meant_is_said_in_words(can: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^`\w+` is "):
        stated(can)


def test_what_has_no_form_is_left_to_whoever_reads_it() -> None:
    lacking = stated({"tools": False, "images": False, "json_schema": False})
    assert refused(lacking, call(messages="hi", response_format=3)) is None
