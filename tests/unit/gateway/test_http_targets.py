"""The way of a request over HTTP targets: what is edited, what is passed on, what is charged."""

import asyncio
import json

import pytest
from aiohttp import web

from dutchdoor.gateway.call import DEFAULT_CAP
from tests.fakes.upstream import Reply, Upstream
from tests.unit.gateway.conftest import HELLO, Opener, route


async def test_an_answer_comes_back_as_it_is_and_is_charged_to_the_nano_dollar(desk: Opener) -> None:
    async with Upstream(Reply(text="a b c", input_tokens=7)) as upstream, desk(route(upstream)) as d:
        async with d.ask() as response:
            body = await response.json()
            assert response.headers["x-dutchdoor-target"] == "t0"
        assert body["choices"][0]["message"]["content"] == "a b c"
        (row,) = await d.rows()
        assert (row["state"], row["counted"], row["nanodollars"]) == (
            "finished",
            "reported",
            7 * 1000 + 3 * 3000,
        )
        assert row["id"] == response.headers["x-request-id"] and await d.total() == row["nanodollars"]


async def test_only_the_stated_edits_are_made_to_a_body(desk: Opener) -> None:
    raw = (
        b'{"messages": [{"role":"user","content":"h\\u00e9"}], "model":"m", "tools" : [{"x": 1.50}],'
        b' "stream":true, "unknown":{"a":1e2}}'
    )
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask(raw) as response:
            await response.read()
        (sent,) = upstream.requests
        assert sent.body["model"] == "upstream-0" and sent.body["max_tokens"] == DEFAULT_CAP
        assert sent.body["stream_options"] == {"include_usage": True}
        assert b'[{"x": 1.50}]' in sent.raw and b'{"a":1e2}' in sent.raw and b"h\\u00e9" in sent.raw
        assert d.key not in str(sent.headers)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_cap_goes_on_under_the_one_name_that_the_target_reads(desk: Opener, name: str) -> None:
    other = ({"max_tokens", "max_completion_tokens"} - {name}).pop()
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask(**{name: 5, other: None}):
            pass
        body = upstream.requests[0].body
        assert body["max_tokens"] == 5 and "max_completion_tokens" not in body


async def test_two_caps_that_differ_are_refused(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask(max_tokens=5000, max_completion_tokens=1) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == "max_tokens"
        assert not upstream.requests
        async with d.ask(max_tokens=5, max_completion_tokens=5) as response:
            assert response.status == 200


async def test_a_members_own_system_prompt_is_put_first(desk: Opener) -> None:
    async with Upstream() as upstream, desk(route(upstream, system_prompt="Be “kind”.")) as d:
        async with d.ask():
            pass
        assert upstream.requests[0].body["messages"] == [
            {"role": "system", "content": "Be “kind”."},
            *HELLO["messages"],
        ]


@pytest.mark.parametrize("asked", [True, False])
async def test_the_usage_of_a_stream_is_shown_only_to_who_asked(desk: Opener, asked: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asked else {}
    async with Upstream(Reply(text="a b", input_tokens=5)) as upstream, desk(route(upstream)) as d:
        async with d.ask(stream=True, **options) as response:
            text = (await response.read()).decode()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert ('"usage": {' in text) is asked
        assert text.endswith("data: [DONE]\n\n") and text.count("[DONE]") == 1
        (row,) = await d.rows()
        assert (row["state"], row["nanodollars"]) == ("finished", 5 * 1000 + 2 * 3000)


async def test_a_stream_without_usage_is_counted_by_what_was_relayed(desk: Opener) -> None:
    async with Upstream(Reply(text="a b c d", usage=False)) as upstream, desk(route(upstream)) as d:
        async with d.ask(stream=True) as response:
            await response.read()
        (row,) = await d.rows()
        assert (row["counted"], row["output_tokens"]) == ("relayed", 4) and row["input_tokens"] > 0


async def test_a_client_that_leaves_stops_the_upstream_and_pays_for_what_it_got(desk: Opener) -> None:
    words = " ".join("w" for _ in range(200))
    async with Upstream(Reply(text=words, pause_s=0.02)) as upstream, desk(route(upstream)) as d:
        async with d.ask(stream=True) as response:
            async for _ in response.content.iter_any():
                break
        for _ in range(100):
            if upstream.left and await d.rows():
                break
            await asyncio.sleep(0.02)
        (row,) = await d.rows()
        assert upstream.left == 1
        assert row["state"] == "left" and 0 < row["output_tokens"] < 100 and row["nanodollars"] > 0


async def test_a_client_that_leaves_before_an_answer_pays_nothing(desk: Opener) -> None:
    async with Upstream(Reply(delay_s=30)) as upstream, desk(route(upstream)) as d:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(_read(d.ask())), 0.3)
        for _ in range(100):
            if upstream.left and await d.rows():
                break
            await asyncio.sleep(0.02)
        assert upstream.left == 1 and await d.total() == 0


async def _read(asking) -> bytes:
    async with asking as response:
        return await response.read()


@pytest.mark.parametrize(
    "failing",
    [
        Reply(status=500),
        Reply(status=429),
        Reply(status=401),  # our key there, not the client's
        Reply(status=404),
        Reply(drop_after=0),
        Reply(raw=b"<html>busy</html>"),
        Reply(stall_after=0),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_next_target_answers_before_the_first_byte(
    desk: Opener, failing: Reply, stream: bool
) -> None:
    async with (
        Upstream(failing) as first,
        Upstream(Reply(text="second")) as second,
        desk(route(first, second, idle_s=0.5)) as d,
        d.ask(stream=stream) as response,
    ):
        text = (await response.read()).decode()
        assert response.status == 200 and "second" in text
        assert response.headers["x-dutchdoor-target"] == "t1"
        assert [row["target"] for row in await d.rows()] == ["t1"]


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        (Reply(status=500), 502),
        (Reply(status=429, headers={"retry-after": "7"}), 429),
        (Reply(stall_after=0), 504),
    ],
)
async def test_when_no_target_answers_nothing_is_charged(desk: Opener, failing: Reply, status: int) -> None:
    async with Upstream(failing) as upstream, desk(route(upstream, idle_s=0.3), budget=10**9) as d:
        async with d.ask() as response:
            assert response.status == status and (await response.json())["error"]["message"]
            assert response.headers.get("retry-after") == failing.headers.get("retry-after")
        (row,) = await d.rows()
        assert (row["state"], row["nanodollars"], await d.total()) == ("failed", 0, 0)
        assert (await d.ledger.balance((await d.ledger.keys())[0])).held == 0


async def test_an_upstream_that_is_not_there_is_503(desk: Opener) -> None:
    gone = Upstream()
    gone.port = 1  # nothing listens there
    async with desk(route(gone)) as d, d.ask() as response:
        assert response.status == 503


async def test_what_an_upstream_says_of_a_bad_request_reaches_the_client(desk: Opener) -> None:
    refusing = Reply(status=400, message="too many images")
    async with Upstream(refusing) as first, Upstream() as second, desk(route(first, second)) as d:
        async with d.ask() as response:
            assert response.status == 400
            assert (await response.json())["error"]["message"] == "too many images"
        assert not second.requests and await d.total() == 0


async def test_an_upstreams_words_reach_the_client_without_its_key_and_address(desk: Opener) -> None:
    said = "key sk-secret-1 was refused by {url}/chat/completions at 127.0.0.1:{port}, see localhost or 127.0.0.1"
    async with Upstream() as upstream:
        upstream.replies = [Reply(status=400, message=said.format(url=upstream.url, port=upstream.port))]
        async with desk(route(upstream, key="sk-secret-1")) as d, d.ask() as response:
            text = (await response.json())["error"]["message"]
    assert text == "key … was refused by … at …, see localhost or …"


async def test_an_error_of_a_stream_is_not_passed_on_in_the_upstreams_words(desk: Opener) -> None:
    raw = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    failed = b'event: error\ndata: {"id":"x","error":{"message":"bad key sk-secret-1"}}\n\n'
    async with LateUpstream(raw, failed) as upstream, desk(route(upstream, key="sk-secret-1")) as d:
        async with d.ask(stream=True) as response:
            text = (await response.read()).decode()
        assert text.startswith(raw.decode()) and "sk-secret-1" not in text
        assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "stream_broken"
        assert (await d.rows())[0]["state"] == "broken"


async def test_nothing_is_read_after_the_end_marker(desk: Opener) -> None:
    async with LateUpstream(FINISHED, hold_s=30) as upstream, desk(route(upstream)) as d:
        async with asyncio.timeout(5), d.ask(stream=True) as response:
            assert (await response.read()) == FINISHED
        assert (await d.rows())[0]["state"] == "finished"


FINISHED = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class LateUpstream(Upstream):
    """Streams pieces as they are, each on its own, and ends the body late."""

    def __init__(self, *pieces: bytes, hold_s: float = 0, pause_s: float = 0.05) -> None:
        super().__init__()
        self.pieces, self.hold_s, self.pause_s = pieces, hold_s, pause_s

    async def _answer(self, request: web.Request, body: dict, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
            await asyncio.sleep(self.pause_s)
        await asyncio.sleep(self.hold_s)
        await response.write_eof()
        return response


async def test_a_connection_is_kept_after_a_stream_that_came_to_its_end(desk: Opener) -> None:
    seen = []

    class Watched(LateUpstream):
        async def _answer(self, request: web.Request, body: dict, reply: Reply) -> web.StreamResponse:
            seen.append(request.transport)
            return await super()._answer(request, body, reply)

    async with Watched(FINISHED, hold_s=0.01, pause_s=0) as upstream, desk(route(upstream)) as d:
        for _ in range(3):
            async with d.ask(stream=True) as response:
                await response.read()
    assert len(seen) == 3 and len(set(seen)) == 1


@pytest.mark.parametrize(("kept", "requests"), [(False, 1), (True, 3)])
async def test_a_request_is_sent_twice_only_over_a_connection_that_had_been_kept(
    desk: Opener, kept: bool, requests: int
) -> None:
    class Closing(Upstream):
        async def _answer(self, request: web.Request, body: dict, reply: Reply) -> web.StreamResponse:
            if len(self.requests) == (2 if kept else 1):  # without a byte of an answer
                assert request.transport is not None
                request.transport.close()
                await asyncio.sleep(1)
            return await super()._answer(request, body, reply)

    async with Closing() as upstream, desk(route(upstream)) as d:
        if kept:
            async with d.ask() as response:
                assert response.status == 200
        async with d.ask() as response:
            assert response.status == (200 if kept else 502)
        assert len(upstream.requests) == requests


async def test_an_answer_without_usage_is_counted_by_its_text_alone(desk: Opener) -> None:
    call = {"id": "x" * 4000, "type": "function", "function": {"name": "f", "arguments": "b" * 8}}
    message = {"role": "assistant", "content": "a" * 32, "tool_calls": [call]}
    raw = json.dumps({"id": "y" * 4000, "choices": [{"message": message}]}).encode()
    async with Upstream(Reply(raw=raw)) as upstream, desk(route(upstream)) as d:
        async with d.ask() as response:
            assert response.status == 200
        (row,) = await d.rows()
        assert (row["counted"], row["output_tokens"]) == ("relayed", 10)


@pytest.mark.parametrize("breaking", [Reply(text="a b c", drop_after=2), Reply(text="a b c", stall_after=2)])
async def test_a_stream_that_breaks_ends_with_an_error_in_it(desk: Opener, breaking: Reply) -> None:
    async with Upstream(breaking) as first, Upstream() as second, desk(route(first, second, idle_s=0.5)) as d:
        async with d.ask(stream=True) as response:
            text = (await response.read()).decode()
        last = json.loads(text.strip().rpartition("data: ")[2])
        assert last["error"]["code"] == "stream_broken" and "[DONE]" not in text
        assert not second.requests  # no fallback after the first byte
        (row,) = await d.rows()
        assert (row["state"], row["output_tokens"]) == ("broken", 2)


async def test_more_usage_than_was_reserved_is_charged_as_reserved(desk: Opener) -> None:
    async with Upstream(Reply(output_tokens=10**9)) as upstream, desk(route(upstream)) as d:
        async with d.ask(max_tokens=1) as response:
            assert response.status == 200
        (row,) = await d.rows()
        assert row["nanodollars"] == row["reserved"] and row["alarm"]


@pytest.mark.parametrize("wrong", [b'"many"', b"-5", b"1e999", b"99999999999999999999999999"])
async def test_wrong_usage_of_an_upstream_is_counted_instead(desk: Opener, wrong: bytes) -> None:
    raw = (
        b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":'
        + wrong
        + b"}}"
    )
    async with Upstream(Reply(raw=raw)) as upstream, desk(route(upstream)) as d:
        async with d.ask() as response:
            assert response.status == 200 and await response.read() == raw
        (row,) = await d.rows()
        assert row["counted"] == "relayed" and row["nanodollars"] > 0


async def test_an_event_of_ten_megabytes_goes_through(desk: Opener) -> None:
    async with Upstream(Reply(text="x" * 10_000_000)) as upstream, desk(route(upstream)) as d:
        async with d.ask(stream=True) as response:
            assert len(await response.read()) > 10_000_000
        assert (await d.rows())[0]["state"] == "finished"


async def test_a_hundred_clients_on_one_budget_overspend_it_by_nothing(desk: Opener) -> None:
    budget = 40_000_000
    async with (
        Upstream(Reply(text="a b c d e", pause_s=0.001)) as upstream,
        desk(route(upstream), budget=budget) as d,
    ):

        async def client(number: int) -> int:
            async with d.ask(stream=number % 2 == 0, max_tokens=200) as response:
                await response.read()
                return response.status

        statuses = await asyncio.gather(*(client(number) for number in range(100)))
        assert set(statuses) == {200, 429}
        total = await d.total()
        assert total == statuses.count(200) * (7 * 1000 + 5 * 3000) <= budget
        balance = await d.ledger.balance((await d.ledger.keys())[0])
        assert (balance.spent, balance.held) == (total, 0)
        async with d.ask(max_tokens=10**6) as response:
            assert response.status == 429 and response.headers["x-should-retry"] == "false"
            assert (await response.json())["error"]["code"] == "insufficient_quota"


async def test_an_unpriced_target_is_refused_unless_the_route_allows_it(desk: Opener) -> None:
    async with Upstream() as upstream:
        routes = (route(upstream, price=None), route(upstream, price=None, unpriced=True, model="free"))
        async with desk(*routes) as d:
            async with d.ask() as response:
                assert response.status == 403
                assert (await response.json())["error"]["code"] == "unpriced_target"
            async with d.ask(model="free") as response:
                assert response.status == 200
            assert [row["nanodollars"] for row in await d.rows()] == [None]
            limited = await d.ledger.create_key("limited", budget=10**12)
            async with d.ask(model="free", key=limited.key) as response:
                assert response.status == 403


async def test_a_target_that_cannot_do_what_is_asked_is_passed_over_or_named(desk: Opener) -> None:
    can = {
        "tools": False,
        "logprobs": False,
        "n": False,
        "json_schema": False,
        "images": False,
        "seed": False,
    }
    asks = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "logprobs": True,
        "n": 2,
        "response_format": {"type": "json_schema"},
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
        "seed": 1,
    }
    async with Upstream() as upstream, desk(route(upstream, can=can)) as d:
        for name, value in asks.items():
            async with d.ask(**{name: value}) as response:
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (400, "unsupported_parameter")
                assert error["param"].startswith(name)
        sly = {"type": "json_schema", "json_schema": {"name": "text", "schema": {"text": {"type": "text"}}}}
        async with d.ask(response_format=sly) as response:
            assert response.status == 400
        async with d.ask(tools=[], logprobs=False, n=1, response_format={"type": "text"}) as response:
            assert response.status == 200
        assert len(upstream.requests) == 1


async def test_weights_draw_and_the_others_follow_as_fallback(desk: Opener) -> None:
    async with Upstream(Reply(text="a")) as first, Upstream(Reply(text="b")) as second:
        drawn = route(first, second, weights=(1.0, 0.0))
        assert [each.name for each in drawn.order(lambda: 0.999)] == ["t0", "t1"]
        even = route(first, second, weights=(1.0, 1.0))
        assert [each.name for each in even.order(lambda: 0.9)] == ["t1", "t0"]


async def test_a_slow_reader_does_not_slow_the_others(desk: Opener) -> None:
    big = Reply(text=" ".join("x" * 5000 for _ in range(4000)))  # more than all buffers between hold
    async with (
        Upstream(script=lambda body: big if body["max_tokens"] == 9 else Reply()) as upstream,
        desk(route(upstream)) as d,
        d.ask(stream=True, max_tokens=9) as slow,
    ):
        await slow.content.readany()
        for _ in range(20):
            async with d.ask() as response:
                assert response.status == 200
        assert len(await d.rows()) == 20  # all of them are through, and the slow one is not
        slow.close()
