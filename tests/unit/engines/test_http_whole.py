"""An answer in one piece is the same answer, and what is no whole answer is never taken for one."""

import pytest

from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines import http
from dutchdoor.engines.http import DeniedError, HttpEngine
from dutchdoor.engines.interface import Answer, ChatRequest, Message, Overloaded, Unreachable
from tests.fakes.upstream import Reply, Upstream

REQUEST = ChatRequest(messages=(Message(role="user", content="hi"),), max_tokens=5)


async def asked(*replies: Reply, silence_s: float = 5.0) -> Answer:
    async with Upstream(*replies) as upstream:
        engine = HttpEngine(upstream.url, "m", "secret", silence_s=silence_s)
        try:
            answer = await engine.whole(REQUEST)
            body = upstream.requests[0].body
            assert body["stream"] is False
            assert "stream_options" not in body
            assert (body["messages"], body["max_tokens"]) == ([{"role": "user", "content": "hi"}], 5)
            assert upstream.requests[0].headers["Authorization"] == "Bearer secret"
            return answer
        finally:
            await engine.close()


async def test_an_answer_comes_whole_with_its_usage_and_reason() -> None:
    answer = await asked(Reply(text="one two", finish_reason="length"))
    assert (answer.text, answer.finish_reason) == ("one two", "length")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2
    assert answer.total_s == answer.first_token_s > 0


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=401), DeniedError),
        (Reply(status=404), DeniedError),
        (Reply(status=400), UsageError),
        (Reply(status=500), Unreachable),
        (Reply(status=429, headers={"Retry-After": "3"}), Overloaded),
        (Reply(raw=b"{"), EngineError),
        (Reply(raw=b'{"choices": []}'), EngineError),
        (Reply(raw=b'{"error": {"message": "no"}}'), Unreachable),
        (Reply(drop_after=0), Unreachable),
    ],
)
async def test_what_is_no_answer_is_an_error_of_its_kind(reply: Reply, error: type[Exception]) -> None:
    with pytest.raises(error):
        await asked(reply)


async def test_silence_is_no_answer() -> None:
    with pytest.raises(Unreachable, match="did not answer in time"):
        await asked(Reply(delay_s=5), silence_s=0.05)


async def test_an_answer_without_end_does_not_eat_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_ANSWER_BYTES", 1000)
    with pytest.raises(EngineError, match="longer than any answer"):
        await asked(Reply(text="x" * 2000))
