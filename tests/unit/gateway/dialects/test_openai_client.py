"""The official `openai` client's `responses`, unchanged, in front of a target that speaks chat completions."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from dutchdoor.gateway.dialects.responses import ResponsesDialect
from dutchdoor.gateway.errors import ApiError, over_budget, unknown_model, unsupported, wrong_key
from tests.unit.gateway.dialects.front import Front, chunk, completion, serving

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
TOKEN = {"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []}


class Town(BaseModel):
    name: str
    people: int


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with serving(ResponsesDialect()) as front:
        yield front


@pytest.fixture
async def client(front: Front) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="k", base_url=front.url + "/v1", max_retries=0) as client:
        yield client


async def test_a_response_has_text_usage_and_what_was_asked(front: Front, client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(
        model="m",
        input="hello",
        instructions="be kind",
        temperature=0.5,
        metadata={"a": "b"},
        max_output_tokens=9,
    )
    assert response.output_text == "hello"
    assert (response.id, response.model, response.status) == ("resp_0123", "m", "completed")
    assert (response.instructions, response.temperature, response.metadata) == ("be kind", 0.5, {"a": "b"})
    assert (response.max_output_tokens, response.tools, response.tool_choice) == (9, [], "auto")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (
        20,
        7,
        27,
    )
    assert front.body == {
        "model": "m",
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
    }


async def test_a_tool_goes_round(front: Front, client: openai.AsyncOpenAI) -> None:
    front.answer = completion(
        {"content": None, "reasoning": "so", "tool_calls": [CALL, CALL | {"id": "call_2"}]}, "tool_calls"
    )
    first = await client.responses.create(model="m", input="rain?", tools=[WEATHER], tool_choice="required")
    assert [item.type for item in first.output] == ["reasoning", "function_call", "function_call"]
    result: Any = {"type": "function_call_output", "output": "wet"}
    front.answer = completion({"content": "rain"})
    history: Any = [{"role": "user", "content": "rain?"}, *first.output]
    history += [result | {"call_id": "call_1"}, result | {"call_id": "call_2"}]
    second = await client.responses.create(model="m", input=history, tools=[WEATHER])
    assert second.output_text == "rain"
    assert front.body["messages"] == [
        {"role": "user", "content": "rain?"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "so",
            "tool_calls": [CALL, CALL | {"id": "call_2"}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "wet"},
        {"role": "tool", "tool_call_id": "call_2", "content": "wet"},
    ]


async def test_a_stream_is_put_together_again(front: Front, client: openai.AsyncOpenAI) -> None:
    front.answer = [
        b": ping\r\n\r\n",
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "hm"}),
        chunk({"content": "hi"}, choice={"logprobs": {"content": [TOKEN]}}) + chunk({"content": "!"}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "weather", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Ulm"}'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "weather", "arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
        chunk(usage={"prompt_tokens": 20, "completion_tokens": 7}),
    ]
    seen: list[Any] = []
    async with client.responses.stream(model="m", input="hello", tools=[WEATHER]) as stream:
        async for event in stream:
            seen.append(event)
        response = await stream.get_final_response()
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "hi!"
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert response.output_text == "hi!"
    assert response.output[2].arguments == '{"city":"Ulm"}'  # type: ignore[union-attr]
    assert response.usage is not None
    assert response.usage.output_tokens == 7
    assert response.output[1].content[0].logprobs[0].token == "hi"  # type: ignore[union-attr,index]


async def test_raw_events_come_in_openais_order(front: Front, client: openai.AsyncOpenAI) -> None:
    front.answer = [
        chunk({"role": "assistant"}),
        chunk({"content": "hi"}, "stop"),
        chunk(usage={"prompt_tokens": 1}),
    ]
    stream = await client.responses.create(model="m", input="hello", stream=True)
    assert [event.type async for event in stream] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_structured_output_is_parsed(front: Front, client: openai.AsyncOpenAI) -> None:
    front.answer = completion({"content": '{"name":"Ulm","people":128928}'})
    response = await client.responses.parse(model="m", input="a town", text_format=Town)
    assert response.output_parsed == Town(name="Ulm", people=128928)
    wanted = front.body["response_format"]
    assert (wanted["type"], wanted["json_schema"]["name"]) == ("json_schema", "Town")
    assert wanted["json_schema"]["strict"] is True


async def test_structured_output_is_parsed_from_a_stream(front: Front, client: openai.AsyncOpenAI) -> None:
    front.answer = [
        chunk({"content": '{"name":"Ulm",'}),
        chunk({"content": '"people":1}'}),
        chunk({}, "stop"),
    ]
    async with client.responses.stream(model="m", input="a town", text_format=Town) as stream:
        response = await stream.get_final_response()
    assert response.output_parsed == Town(name="Ulm", people=1)


async def test_an_answer_at_its_cap_is_incomplete(front: Front, client: openai.AsyncOpenAI) -> None:
    front.answer = completion({"content": "half"}, "length")
    response = await client.responses.create(model="m", input="hello")
    assert (response.status, response.output[0].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (unsupported("response_format", "target 't'"), openai.BadRequestError),
        (wrong_key(), openai.AuthenticationError),
        (ApiError(403, "no", code="unpriced_target"), openai.PermissionDeniedError),
        (unknown_model("x"), openai.NotFoundError),
        (over_budget("spent"), openai.RateLimitError),
        (ApiError(502, "down", type="server_error"), openai.InternalServerError),
    ],
)
async def test_errors_raise_the_clients_own_classes(
    front: Front, client: openai.AsyncOpenAI, error: ApiError, raised: type[openai.APIStatusError]
) -> None:
    front.answer = error
    with pytest.raises(raised) as caught:
        await client.responses.create(model="m", input="hello")
    assert caught.value.code == error.code
    assert caught.value.param == ("text.format" if error.param == "response_format" else error.param)


async def test_a_broken_stream_fails_with_what_was_done(front: Front, client: openai.AsyncOpenAI) -> None:
    front.answer = [chunk({"content": "half"})]
    front.breaks = "The answer broke off before its end."
    stream = await client.responses.create(model="m", input="hello", stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "broke off" in last.response.error.message


async def test_images_and_files_are_passed_on(front: Front, client: openai.AsyncOpenAI) -> None:
    content: Any = [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "data:image/png;base64,aWI=", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aWI="},
    ]
    await client.responses.create(model="m", input=[{"role": "user", "content": content}])
    assert front.body["messages"][0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aWI=", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aWI="}},
    ]
    assert front.asked[-1].attachments == 2
    assert json.loads(front.asked[-1].body)["model"] == "m"
