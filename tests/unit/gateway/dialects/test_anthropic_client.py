"""The official `anthropic` client, unchanged, in front of a target that speaks OpenAI's chat completions."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from dutchdoor.gateway.dialects.messages import MessagesDialect
from dutchdoor.gateway.errors import ApiError, over_budget, unknown_model, unsupported, wrong_key
from tests.unit.gateway.dialects.front import Front, chunk, completion, serving

ASK: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
WEATHER = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}


class Town(BaseModel):
    name: str
    people: int


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with serving(MessagesDialect()) as front:
        yield front


@pytest.fixture
async def client(front: Front) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key="k", base_url=front.url, max_retries=0) as client:
        yield client


async def test_a_message_has_text_stop_reason_and_usage(
    front: Front, client: anthropic.AsyncAnthropic
) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 15}}
    front.answer = completion(
        {"content": "hi"}, usage={"prompt_tokens": 20, "completion_tokens": 3, **details}
    )
    message = await client.messages.create(**ASK, system="be kind")
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == "hi"  # type: ignore[union-attr]
    assert (message.model, message.role, message.stop_reason) == ("m", "assistant", "end_turn")
    assert message.id == "msg_0123"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (5, 15)
    assert message.usage.output_tokens == 3
    assert front.body["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
    ]


async def test_a_tool_goes_round(front: Front, client: anthropic.AsyncAnthropic) -> None:
    front.answer = completion({"content": None, "tool_calls": [CALL]}, "tool_calls")
    message = await client.messages.create(**ASK, tools=[WEATHER], tool_choice={"type": "any"})  # type: ignore[list-item]
    assert message.stop_reason == "tool_use"
    (use,) = message.content
    assert (use.type, use.id, use.input) == ("tool_use", "call_1", {"city": "Ulm"})  # type: ignore[union-attr]
    assert front.body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "of a city",
                "parameters": WEATHER["input_schema"],
            },
        }
    ]
    assert front.body["tool_choice"] == "required"
    front.answer = completion({"content": "rain"})
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "wet"}
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": [each.model_dump(exclude_none=True) for each in message.content]},
        {"role": "user", "content": [result]},
    ]
    await client.messages.create(**{**ASK, "messages": history}, tools=[WEATHER])  # type: ignore[list-item]
    assert front.body["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "wet"},
    ]


async def test_a_stream_is_put_together_again(front: Front, client: anthropic.AsyncAnthropic) -> None:
    front.answer = [
        b": ping\n\n",
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "Let "}) + chunk({"content": "me see"}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "weather", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Ulm"}'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "weather", "arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
        chunk(
            usage={"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
        ),
    ]
    async with client.messages.stream(**ASK, tools=[WEATHER]) as stream:  # type: ignore[list-item]
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert texts == ["Let ", "me see"]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    thought, text, first, second = message.content
    assert (thought.thinking, text.text) == ("hm", "Let me see")  # type: ignore[union-attr]
    assert (first.id, first.input, second.id, second.input) == ("a", {"city": "Ulm"}, "b", {})  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (16, 7)
    assert message.usage.cache_read_input_tokens == 4


async def test_structured_output_is_parsed(front: Front, client: anthropic.AsyncAnthropic) -> None:
    front.answer = completion({"content": '{"name":"Ulm","people":128928}'})
    message = await client.messages.parse(**ASK, output_format=Town)
    assert message.parsed_output == Town(name="Ulm", people=128928)
    wanted = front.body["response_format"]
    assert (wanted["type"], wanted["json_schema"]["strict"]) == ("json_schema", True)
    assert set(wanted["json_schema"]["schema"]["properties"]) == {"name", "people"}


async def test_images_are_shown_as_data_or_url(front: Front, client: anthropic.AsyncAnthropic) -> None:
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aWI="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "text", "text": "what?", "cache_control": {"type": "ephemeral"}},
    ]
    await client.messages.create(**{**ASK, "messages": [{"role": "user", "content": content}]})
    assert front.body["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aWI="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "text", "text": "what?"},
    ]
    assert front.asked[-1].attachments == 2


@pytest.mark.parametrize(
    ("error", "raised", "kind"),
    [
        (unsupported("stop", "target 't'"), anthropic.BadRequestError, "invalid_request_error"),
        (wrong_key(), anthropic.AuthenticationError, "authentication_error"),
        (ApiError(403, "no", code="unpriced_target"), anthropic.PermissionDeniedError, "permission_error"),
        (unknown_model("x"), anthropic.NotFoundError, "not_found_error"),
        (ApiError(413, "big", code="body_too_large"), anthropic.RequestTooLargeError, "request_too_large"),
        (over_budget("spent"), anthropic.RateLimitError, "rate_limit_error"),
        (ApiError(502, "down", type="server_error"), anthropic.InternalServerError, "api_error"),
        (
            ApiError(503, "stopping", type="server_error"),
            anthropic.InternalServerError,
            "overloaded_error",
        ),
    ],
)
async def test_errors_raise_the_clients_own_classes(
    front: Front, client: anthropic.AsyncAnthropic, error: ApiError, raised: type[Exception], kind: str
) -> None:
    front.answer = error
    with pytest.raises(raised) as caught:
        await client.messages.create(**ASK)
    assert isinstance(caught.value, anthropic.APIStatusError)
    assert caught.value.body["error"]["type"] == kind


async def test_what_a_target_cannot_do_is_named_as_the_client_wrote_it(
    front: Front, client: anthropic.AsyncAnthropic
) -> None:
    front.answer = unsupported("stop", "target 't'")
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(**ASK, stop_sequences=["x"])
    assert "'stop_sequences'" in str(caught.value)
    assert "'stop'" not in str(caught.value)


async def test_a_broken_stream_raises_in_the_client(front: Front, client: anthropic.AsyncAnthropic) -> None:
    front.answer = [chunk({"content": "half"})]
    front.breaks = "The answer broke off before its end."
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        async with client.messages.stream(**ASK) as stream:
            await stream.get_final_message()
