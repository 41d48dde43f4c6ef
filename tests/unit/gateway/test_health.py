"""A target that fails is left out, by many requests and not by one; what is no UTF-8 reaches none."""

import pytest

from dutchdoor.gateway.targets.health import FAILURES, LONGEST_OPEN_S, OPEN_S, Breaker
from dutchdoor.ledger.prices import Price
from tests.fakes.upstream import Reply, Upstream
from tests.unit.gateway.conftest import Opener, route

FAILING = Reply(status=500)


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(0.0, trial=False)
    return breaker


def test_it_opens_after_failures_in_a_row_and_lets_one_trial_through() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(0.0, trial=False)
    breaker.succeeded()
    breaker.failed(0.0, trial=False)
    assert breaker.allows(0.0)  # not in a row
    breaker = opened()
    assert not breaker.allows(OPEN_S - 0.1)
    assert breaker.allows(OPEN_S) and not breaker.allows(OPEN_S)  # the others wait for the trial
    breaker.succeeded()
    assert breaker.allows(OPEN_S)


def test_each_trial_that_fails_doubles_the_pause_up_to_an_end() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(8):
        pauses.append(breaker.left_s(now))
        now += breaker.left_s(now)
        assert breaker.allows(now)
        breaker.failed(now, trial=True)
    assert pauses[:3] == [OPEN_S, 2 * OPEN_S, 4 * OPEN_S] and max(pauses) == LONGEST_OPEN_S


def test_requests_from_before_the_pause_neither_end_a_trial_nor_lengthen_the_pause() -> None:
    breaker = opened()
    breaker.failed(1.0, trial=False)
    assert breaker.allows(OPEN_S)
    breaker.failed(OPEN_S, trial=False)
    assert not breaker.allows(OPEN_S)  # the trial is still under way


async def test_one_request_that_always_fails_does_not_shut_a_target_out(desk: Opener) -> None:
    async with Upstream(FAILING) as upstream, desk(route(upstream, retries=FAILURES)) as d:
        async with d.ask() as response:
            assert response.status == 502
        assert len(upstream.requests) > FAILURES
        assert not d.server.app.breaker_of(d.server.app.targets[0]).is_open


async def test_requests_that_fail_do_shut_it_out(desk: Opener) -> None:
    async with Upstream(FAILING) as upstream, desk(route(upstream, retries=0)) as d:
        for _ in range(FAILURES):
            async with d.ask() as response:
                assert response.status == 502
        async with d.ask() as response:
            assert response.status == 503 and int(response.headers["retry-after"]) >= 1
        assert len(upstream.requests) == FAILURES


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "\xff": 1}',
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "a": "\xff"}',
        b'{"model": "m", "messages": [{"role": "user", "content": "\xff"}]}',
    ],
)
async def test_what_is_no_utf_8_is_400_and_no_failure_of_the_target(desk: Opener, body: bytes) -> None:
    async with Upstream() as upstream, desk(route(upstream)) as d:
        async with d.ask(body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "invalid_json"
        assert not upstream.requests and not await d.rows()


async def test_what_a_target_keeps_to_read_again_is_charged_as_written(desk: Opener) -> None:
    details = b'{"cached_tokens": 2, "cache_write_tokens": 4}'
    usage = b'{"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": ' + details + b"}"
    answer = b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": ' + usage + b"}"
    price = Price(input=1000, output=3000, cached_input=100, cache_write=1250)
    async with Upstream(Reply(raw=answer)) as upstream, desk(route(upstream, price=price)) as d:
        async with d.ask() as response:
            assert response.status == 200
        (row,) = await d.rows()
        assert (row["cached_tokens"], row["written_tokens"]) == (2, 4)
        assert row["nanodollars"] == -(-(4 * 1000 + 2 * 100 + 4 * 1250 + 3000) // 1000)
