"""The official `openai` and `anthropic` clients over a real server process: every dialect, whole and streamed,
every class of error, and for each what it came to.
"""

import asyncio
import base64
import http.client
import json
import math
import sqlite3
import urllib.parse
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import anthropic
import openai
import pydantic
import pytest

from tests.fakes.upstream import Reply, Upstream, upstream_thread
from tests.functional.server import Serving, dutchdoor, serving

HI: Any = [{"role": "user", "content": "hi"}]
TEXT = "open below, closed above"
PNG = base64.b64encode(b"\x89PNG no picture, but passed on as one").decode()
INPUT, CACHED, OUTPUT = Fraction("123.4"), Fraction("12.34"), Fraction("1500.5")  # nano-dollars a token
ROUTES = """\
kind: dutchdoor/routes@1
targets:
  plain: {{url: "{plain}", model: small, price: {{input: 9, output: 9}}, can: {{tools: false}}}}
  full: {{url: "{full}", model: big, price: {{input: 0.1234, cached_input: 0.01234, output: 1.5005}}}}
  gone: {{url: "http://127.0.0.1:1/v1", model: m, price: {{input: 1, output: 1}}}}
  broken: {{url: "{broken}", model: m, price: {{input: 1, output: 1}}}}
  busy: {{url: "{busy}", model: m, price: {{input: 1, output: 1}}}}
routes:
  m: [full]
  either: [plain, full]
  toolless: [plain]
  down: {{to: [gone, broken], retries: 0}}
  crowded: {{to: [busy], retries: 0}}
"""
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class Sum(pydantic.BaseModel):
    answer: int


def answer(body: dict[str, Any]) -> Reply:
    """What a model would: calls the tool it is offered, tells what came of it, keeps to a schema."""
    if "messages" not in body:
        return Reply(text="once upon a time", input_tokens=11)
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Reply(text=f"it is {last['content']}", input_tokens=40)
    if body.get("tools"):
        return Reply(tools=[("weather", '{"city": "Paris"}')], input_tokens=31, output_tokens=9)
    if body.get("response_format"):
        return Reply(text='{"answer": 42}', input_tokens=21, cached_tokens=16)
    if body.get("stop") == ["bad"]:
        return Reply(status=400, message="stop must not be bad")
    choices = body.get("n") or 1
    return Reply(text=TEXT, input_tokens=7, output_tokens=4 * choices, logprobs=bool(body.get("logprobs")))


class Place:
    """A server with its upstreams, a rich key, and its ledger."""

    def __init__(self, server: Serving, full: Upstream) -> None:
        self.server = server
        self.full = full
        self.key = server.key("--budget", "100")["key"]

    def came_to(self, request: str | None, input_: int, output: int, cached: int = 0) -> None:
        """A finished request was booked with these tokens, to the nano-dollar."""
        rows = self.rows(
            "SELECT state, counted, input_tokens, output_tokens, cached_tokens, nanodollars, alarm FROM usage"
            f" WHERE id = '{request}'"
        )
        due = math.ceil((input_ - cached) * INPUT + cached * CACHED + output * OUTPUT)
        assert rows == [("finished", "reported", input_, output, cached, due, None)]

    def rows(self, query: str) -> list[Any]:
        ledger = sqlite3.connect(self.server.cwd / ".dutchdoor" / "ledger.sqlite3")
        try:
            return ledger.execute(query).fetchall()
        finally:
            ledger.close()

    @property
    def root(self) -> str:
        """Where Anthropic's clients point: without `/v1`."""
        return self.server.url.removesuffix("/v1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("clients")
    with (
        upstream_thread(Reply(text="from the plain one")) as plain,
        upstream_thread(script=answer) as full,
        upstream_thread(Reply(status=500)) as broken,
        upstream_thread(Reply(status=429, headers={"retry-after": "7"})) as busy,
    ):
        (folder / "routes.yaml").write_text(
            ROUTES.format(plain=plain.url, full=full.url, broken=broken.url, busy=busy.url)
        )
        with serving("routes.yaml", cwd=folder) as server:
            yield Place(server, full)


@pytest.fixture(scope="module")
def gpt(place: Place) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=place.server.url, api_key=place.key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(place: Place) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=place.root, api_key=place.key, max_retries=0) as client:
        yield client


# -- OpenAI: chat completions


def test_a_chat_whole(place: Place, gpt: openai.OpenAI) -> None:
    raw = gpt.chat.completions.with_raw_response.create(model="m", messages=HI)
    whole = raw.parse()
    assert whole.choices[0].message.content == TEXT and whole.choices[0].finish_reason == "stop"
    assert whole.usage and (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 4)
    assert whole._request_id == raw.headers["x-request-id"] and raw.headers["x-dutchdoor-target"] == "full"
    place.came_to(whole._request_id, 7, 4)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_chat_streamed_with_usage_only_where_it_is_asked_for(
    place: Place, gpt: openai.OpenAI, wanted: bool
) -> None:
    more: Any = {"stream_options": {"include_usage": True}} if wanted else {}
    stream = gpt.chat.completions.create(model="m", messages=HI, stream=True, **more)
    chunks = list(stream)
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == TEXT
    assert stream.response.headers["x-dutchdoor-target"] == "full"
    told = [each.usage for each in chunks if each.usage]
    assert [(each.prompt_tokens, each.completion_tokens) for each in told] == ([(7, 4)] if wanted else [])
    place.came_to(stream.response.headers["x-request-id"], 7, 4)


def test_a_chat_calls_a_tool_and_goes_on_with_what_came_of_it(place: Place, gpt: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    asked = gpt.chat.completions.create(model="m", messages=HI, tools=tools)
    assert asked.choices[0].finish_reason == "tool_calls" and asked.choices[0].message.tool_calls
    (call,) = asked.choices[0].message.tool_calls
    assert call.type == "function" and json.loads(call.function.arguments) == {"city": "Paris"}
    place.came_to(asked._request_id, 31, 9)
    went_on = gpt.chat.completions.create(
        model="m",
        tools=tools,
        messages=[
            *HI,
            asked.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "mild"},
        ],
    )
    assert went_on.choices[0].message.content == "it is mild"
    place.came_to(went_on._request_id, 40, 3)


def test_a_chat_streams_a_tool_call(place: Place, gpt: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {**WEATHER, "strict": True}}]
    with gpt.chat.completions.stream(model="m", messages=HI, tools=tools) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"city": "Paris"}'
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_chat_keeps_to_a_schema(place: Place, gpt: openai.OpenAI) -> None:
    parsed = gpt.chat.completions.parse(model="m", messages=HI, response_format=Sum)
    assert parsed.choices[0].message.parsed == Sum(answer=42)
    assert place.full.requests[-1].body["response_format"]["json_schema"]["name"] == "Sum"
    place.came_to(parsed._request_id, 21, 2, cached=16)


def test_a_chat_with_an_image_and_several_answers_and_logprobs(place: Place, gpt: openai.OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}]
    whole = gpt.chat.completions.create(model="m", messages=asked, n=3, logprobs=True, top_logprobs=1)
    assert [each.message.content for each in whole.choices] == [TEXT] * 3
    assert whole.choices[0].logprobs and whole.choices[0].logprobs.content
    assert whole.choices[0].logprobs.content[0].top_logprobs[0].logprob == -0.5
    assert place.full.requests[-1].body["messages"] == asked and place.full.requests[-1].body["n"] == 3
    place.came_to(whole._request_id, 7, 12)
    stream = gpt.chat.completions.create(model="m", messages=asked, n=3, stream=True, logprobs=True)
    chunks = list(stream)
    assert {choice.index for each in chunks for choice in each.choices} == {0, 1, 2}
    assert chunks[0].choices[0].logprobs
    place.came_to(stream.response.headers["x-request-id"], 7, 12)


# -- OpenAI: the other paths


def test_completions_whole_and_streamed(place: Place, gpt: openai.OpenAI) -> None:
    whole = gpt.completions.create(model="m", prompt="a tale", max_tokens=9)
    assert whole.choices[0].text == "once upon a time"
    place.came_to(whole._request_id, 11, 4)
    stream = gpt.completions.create(model="m", prompt="a tale", stream=True)
    assert "".join(each.choices[0].text for each in stream) == "once upon a time"
    place.came_to(stream.response.headers["x-request-id"], 11, 4)


def test_embeddings_of_one_and_of_many(place: Place, gpt: openai.OpenAI) -> None:
    one = gpt.embeddings.create(model="m", input="a text")  # the client asks for base64 by itself
    assert one.data[0].embedding == [0.5, -0.25, 1.0]
    raw = gpt.embeddings.with_raw_response.create(model="m", input=["a", "b", "c"], encoding_format="float")
    assert [each.index for each in raw.parse().data] == [0, 1, 2]
    place.came_to(raw.headers["x-request-id"], 11, 0)


def test_responses_whole_and_streamed(place: Place, gpt: openai.OpenAI) -> None:
    whole = gpt.responses.create(model="m", input="hi", instructions="be brief")
    assert whole.output_text == TEXT and whole.status == "completed" and whole.model == "m"
    assert whole.usage and (whole.usage.input_tokens, whole.usage.output_tokens) == (7, 4)
    assert [each["role"] for each in place.full.requests[-1].body["messages"]] == ["system", "user"]
    place.came_to(whole._request_id, 7, 4)
    stream = gpt.responses.create(model="m", input="hi", stream=True)
    events = list(stream)
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == TEXT
    last = events[-1]
    assert last.type == "response.completed" and last.response.output_text == TEXT
    assert last.response.usage and last.response.usage.total_tokens == 11
    assert [each.sequence_number for each in events] == list(range(len(events)))
    place.came_to(stream.response.headers["x-request-id"], 7, 4)


def test_responses_call_a_tool_and_go_on(place: Place, gpt: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "strict": True, **WEATHER}]
    asked = gpt.responses.create(model="m", input="the weather?", tools=tools)
    (call,) = asked.output
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Paris"}
    place.came_to(asked._request_id, 31, 9)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "mild"}
    went_on = gpt.responses.create(
        model="m", tools=tools, input=[{"role": "user", "content": "the weather?"}, *asked.output, result]
    )
    assert went_on.output_text == "it is mild"
    place.came_to(went_on._request_id, 40, 3)
    with gpt.responses.stream(model="m", input="the weather?", tools=tools) as stream:
        final = stream.get_final_response()
    assert final.output[0].type == "function_call" and final.output[0].arguments == '{"city": "Paris"}'


def test_responses_keep_to_a_schema_and_take_images(place: Place, gpt: openai.OpenAI) -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"}
    asked: Any = [{"role": "user", "content": [{"type": "input_text", "text": "6 × 7"}, image]}]
    parsed = gpt.responses.parse(model="m", input=asked, text_format=Sum)
    assert parsed.output_parsed == Sum(answer=42)
    sent = place.full.requests[-1].body
    assert sent["messages"][0]["content"][1]["image_url"]["url"].endswith(PNG)
    assert sent["response_format"]["json_schema"]["schema"]["required"] == ["answer"]
    place.came_to(parsed._request_id, 21, 2, cached=16)


def test_the_models_are_listed(gpt: openai.OpenAI) -> None:
    assert [each.id for each in gpt.models.list()] == ["m", "either", "toolless", "down", "crowded"]
    assert gpt.models.retrieve("m").object == "model"


# -- Anthropic: messages


def test_messages_whole(place: Place, claude: anthropic.Anthropic) -> None:
    whole = claude.messages.create(model="m", max_tokens=50, system="be brief", messages=HI)
    assert [each.text for each in whole.content if each.type == "text"] == [TEXT]
    assert (whole.stop_reason, whole.model, whole.role) == ("end_turn", "m", "assistant")
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (7, 4)
    assert place.full.requests[-1].body["messages"][0] == {"role": "system", "content": "be brief"}
    place.came_to(whole._request_id, 7, 4)


def test_messages_streamed(place: Place, claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="m", max_tokens=50, messages=HI) as stream:
        assert "".join(stream.text_stream) == TEXT
        final = stream.get_final_message()
        request = stream.response.headers["request-id"]
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 4)
    place.came_to(request, 7, 4)


@pytest.mark.parametrize("streamed", [False, True])
def test_messages_call_a_tool_and_go_on(place: Place, claude: anthropic.Anthropic, streamed: bool) -> None:
    tool: Any = {"name": "weather", "description": "…", "input_schema": WEATHER["parameters"]}
    fields: Any = {"model": "m", "max_tokens": 50, "tools": [tool]}
    if streamed:
        with claude.messages.stream(messages=HI, **fields) as stream:
            asked = stream.get_final_message()
    else:
        asked = claude.messages.create(messages=HI, **fields)
        place.came_to(asked._request_id, 31, 9)
    assert asked.stop_reason == "tool_use"
    (call,) = asked.content
    assert call.type == "tool_use" and call.input == {"city": "Paris"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "mild"}]}
    turns: Any = [*HI, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    went_on = claude.messages.create(messages=turns, **fields)
    assert went_on.content[0].type == "text" and "it is" in went_on.content[0].text
    assert "mild" in went_on.content[0].text


def test_messages_with_an_image(place: Place, claude: anthropic.Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
    whole = claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": content}])
    (turn,) = place.full.requests[-1].body["messages"]
    assert turn["content"][0]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
    place.came_to(whole._request_id, 7, 4)


# -- both, side by side in one loop


async def test_the_asynchronous_clients(place: Place) -> None:
    gpt = openai.AsyncOpenAI(base_url=place.server.url, api_key=place.key, max_retries=0)
    claude = anthropic.AsyncAnthropic(base_url=place.root, api_key=place.key, max_retries=0)

    async def chat() -> str:
        stream = await gpt.chat.completions.create(model="m", messages=HI, stream=True)
        return "".join([each.choices[0].delta.content or "" async for each in stream])

    async def response() -> str:
        async with gpt.responses.stream(model="m", input="hi") as stream:
            return (await stream.get_final_response()).output_text

    async def message() -> str:
        async with claude.messages.stream(model="m", max_tokens=9, messages=HI) as stream:
            return await stream.get_final_text()

    async with gpt, claude:
        texts = await asyncio.gather(*(each() for each in (chat, response, message) for _ in range(10)))
        assert texts == [TEXT] * 30
        whole = await asyncio.gather(
            gpt.chat.completions.create(model="m", messages=HI),
            gpt.responses.create(model="m", input="hi"),
            claude.messages.create(model="m", max_tokens=9, messages=HI),
        )
    for each in whole:
        place.came_to(each._request_id, 7, 4)


# -- what goes wrong


def test_a_wrong_key_is_an_authentication_error(place: Place) -> None:
    with (
        openai.OpenAI(base_url=place.server.url, api_key="dd-no", max_retries=0) as gpt,
        anthropic.Anthropic(base_url=place.root, api_key="dd-no", max_retries=0) as claude,
    ):
        for ask in (
            lambda: gpt.chat.completions.create(model="m", messages=HI),
            lambda: gpt.completions.create(model="m", prompt="a"),
            lambda: gpt.embeddings.create(model="m", input="a"),
            lambda: gpt.responses.create(model="m", input="a"),
        ):
            with pytest.raises(openai.AuthenticationError) as refused:
                ask()
            assert refused.value.code == "invalid_api_key" and refused.value.request_id
        with pytest.raises(openai.AuthenticationError):
            gpt.models.list()
        with pytest.raises(anthropic.AuthenticationError) as told:
            claude.messages.create(model="m", max_tokens=9, messages=HI)
        assert told.value.body["error"]["type"] == "authentication_error" and told.value.request_id  # type: ignore[index]


def test_an_unknown_model_is_not_found(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist") as refused:
        gpt.chat.completions.create(model="none", messages=HI)
    assert refused.value.code == "model_not_found" and refused.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        gpt.responses.create(model="none", input="hi")
    with pytest.raises(openai.NotFoundError):
        gpt.models.retrieve("none")
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        claude.messages.create(model="none", max_tokens=9, messages=HI)


def test_a_budget_that_is_spent_is_told_once_and_not_asked_again(place: Place) -> None:
    poor = place.server.key("--budget", "0.000000001")["key"]
    asked = len(place.full.requests)
    with (
        openai.OpenAI(base_url=place.server.url, api_key=poor, max_retries=5) as gpt,
        anthropic.Anthropic(base_url=place.root, api_key=poor, max_retries=5) as claude,
    ):
        with pytest.raises(openai.RateLimitError, match="budget") as refused:
            gpt.chat.completions.create(model="m", messages=HI)
        assert refused.value.code == "insufficient_quota"
        assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
        with pytest.raises(anthropic.RateLimitError, match="budget") as told:
            claude.messages.create(model="m", max_tokens=9, messages=HI)
        assert told.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert len(place.full.requests) == asked


def test_a_bad_parameter_is_named_as_the_client_wrote_it(
    gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    tool: Any = {"type": "function", "function": WEATHER}
    for param, ask in (
        ("max_tokens", lambda: gpt.chat.completions.create(model="m", messages=HI, max_tokens=0)),
        ("messages", lambda: gpt.chat.completions.create(model="m", messages=[])),
        ("tools", lambda: gpt.chat.completions.create(model="toolless", messages=HI, tools=[tool])),
        ("best_of", lambda: gpt.completions.create(model="m", prompt="a", best_of=999)),
        ("input", lambda: gpt.embeddings.create(model="m", input=[])),
        ("max_output_tokens", lambda: gpt.responses.create(model="m", input="a", max_output_tokens=0)),
        (
            "previous_response_id",
            lambda: gpt.responses.create(model="m", input="a", previous_response_id="r"),
        ),
        (
            "tools",
            lambda: gpt.responses.create(
                model="toolless", input="a", tools=[{"type": "function", "strict": True, **WEATHER}]
            ),
        ),
    ):
        with pytest.raises(openai.BadRequestError, match=param) as refused:
            ask()
        assert refused.value.param == param
    custom: Any = {"name": "weather", "input_schema": WEATHER["parameters"]}
    for param, fields in (
        ("max_tokens", {"model": "m", "max_tokens": 0}),
        ("tools", {"model": "toolless", "max_tokens": 9, "tools": [custom]}),
        (
            "mcp_servers",
            {"model": "m", "max_tokens": 9, "extra_body": {"mcp_servers": [{"url": "http://x"}]}},
        ),
    ):
        with pytest.raises(anthropic.BadRequestError, match=param) as told:
            claude.messages.create(messages=HI, **fields)  # type: ignore[call-overload]
        error = told.value.body["error"]  # type: ignore[index]
        assert error["type"] == "invalid_request_error" and error["details"]["param"] == param


def test_what_a_target_says_of_a_bad_request_reaches_the_client(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stop must not be bad"):
        gpt.chat.completions.create(model="m", messages=HI, stop=["bad"])


def test_targets_that_are_all_down_or_busy(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        gpt.chat.completions.create(model="down", messages=HI, stream=True)
    assert failed.value.code == "no_target_answered" and failed.value.status_code == 502
    with pytest.raises(openai.InternalServerError):
        gpt.responses.create(model="down", input="hi")
    with pytest.raises(anthropic.InternalServerError, match="api_error"):
        claude.messages.create(model="down", max_tokens=9, messages=HI)
    with pytest.raises(openai.RateLimitError) as busy:
        gpt.chat.completions.create(model="crowded", messages=HI)
    assert busy.value.code == "busy" and busy.value.response.headers["retry-after"] == "7"
    with pytest.raises(anthropic.RateLimitError):
        claude.messages.create(model="crowded", max_tokens=9, messages=HI)


# -- what is passed on


def test_what_the_first_target_cannot_the_second_does(place: Place, gpt: openai.OpenAI) -> None:
    plain = gpt.chat.completions.with_raw_response.create(model="either", messages=HI)
    assert plain.headers["x-dutchdoor-target"] == "plain"
    tools: Any = [{"type": "function", "function": WEATHER}]
    able = gpt.chat.completions.with_raw_response.create(model="either", messages=HI, tools=tools)
    assert able.headers["x-dutchdoor-target"] == "full"
    place.came_to(able.headers["x-request-id"], 31, 9)


def test_unknown_fields_are_passed_on_byte_for_byte(place: Place, gpt: openai.OpenAI) -> None:
    odd = rb'{"b" : 1.50e0 ,  "a":[1,2 ], "\u00e9":"\ud83d\ude00", "big": 12345678901234567890}'
    turn = rb'[ {"role":"user", "content":"\u0041 \/ b", "x_turn" : 1.0} ]'
    body = b'{"x_odd": %b, "model":"m","messages":%b}' % (odd, turn)
    where = urllib.parse.urlsplit(place.server.url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=20)
    headers = {"authorization": f"Bearer {place.key}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    assert connection.getresponse().status == 200
    connection.close()
    sent = place.full.requests[-1]
    assert odd in sent.raw and turn in sent.raw
    gpt.responses.create(model="m", input="hi", extra_body={"min_p": 0.25})
    assert place.full.requests[-1].body["min_p"] == 0.25
    assert place.key not in json.dumps(place.full.requests[-1].headers)


def test_the_bill_is_the_sum_of_all_that(place: Place) -> None:
    """Last: over everything that the tests above did."""
    bill = json.loads(dutchdoor("bill", "--format", "json", cwd=place.server.cwd).stdout)
    ((spent, held),) = place.rows("SELECT sum(spent), sum(held) FROM spend")
    ((charged, open_),) = place.rows(
        "SELECT sum(nanodollars), (SELECT count(*) FROM reservations) FROM usage"
    )
    assert bill["total_nanodollars"] == spent == charged > 0 and held == open_ == 0
    assert sum(line["nanodollars"] for line in bill["lines"]) == spent
    assert not any("fault" in line or "Traceback" in line for line in place.server.log)
