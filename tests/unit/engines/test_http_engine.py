"""HTTP targets over real HTTP: dialect, and errors that tell whose fault it is."""

import logging

import msgspec
import pytest

from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines.answer import ask
from dutchdoor.engines.http import HttpEngine, _formed, _piece, _whole, chat_body
from dutchdoor.engines.interface import Overloaded, Unreachable, Usage
from dutchdoor.engines.providers import PROVIDERS, UNKNOWN, provider_of
from tests.fakes.upstream import Reply, Upstream
from tests.unit.engines.conftest import question

KEY = "sk-very-secret"


async def answer_of(*replies: Reply, **options: object):
    async with Upstream(*replies) as upstream:
        engine = HttpEngine(upstream.url, "gpt-x", KEY)
        try:
            return await ask(engine, question(**options))
        finally:
            await engine.close()


async def test_a_streamed_answer_arrives_whole_with_usage() -> None:
    answer = await answer_of(Reply(text="open below, closed above", input_tokens=9))
    assert answer.text == "open below, closed above"
    assert answer.finish_reason == "stop"
    assert answer.usage == Usage(input_tokens=9, output_tokens=4)


async def test_log_probabilities_arrive() -> None:
    answer = await answer_of(Reply(text="a b", logprobs=True), logprobs=1)
    assert len(answer.logprobs) == 2
    assert all(row.logprob <= 0 for row in answer.logprobs)


@pytest.mark.parametrize(("status", "kind"), [(500, Unreachable), (502, Unreachable), (408, Unreachable)])
async def test_faults_of_the_target_can_be_retried(status: int, kind: type[Unreachable]) -> None:
    with pytest.raises(kind) as caught:
        await answer_of(Reply(status=status))
    assert caught.value.retryable
    assert not isinstance(caught.value, Overloaded)


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_target_says_how_long(status: int) -> None:
    with pytest.raises(Overloaded) as caught:
        await answer_of(Reply(status=status, headers={"Retry-After": "7"}))
    assert caught.value.retry_after_s == 7


async def test_a_wrong_key_and_a_wrong_model_are_no_retry() -> None:
    for status in (401, 404):
        with pytest.raises(EngineError) as caught:
            await answer_of(Reply(status=status))
        assert not isinstance(caught.value, (Unreachable, UsageError))
        assert caught.value.hint


async def test_a_refused_request_is_the_callers_fault() -> None:
    with pytest.raises(UsageError, match="no such thing"):
        await answer_of(Reply(status=400, message="no such thing"))


async def test_a_broken_stream_is_never_an_answer() -> None:
    with pytest.raises(Unreachable):
        await answer_of(Reply(text="one two three", drop_after=1))


async def test_silence_is_unreachable() -> None:
    async with Upstream(Reply(text="one two", stall_after=1)) as upstream:
        engine = HttpEngine(upstream.url, "gpt-x", KEY, silence_s=0.2)
        with pytest.raises(Unreachable, match="in time"):
            await ask(engine, question())
        await engine.close()


async def test_nobody_there_is_unreachable() -> None:
    engine = HttpEngine("http://127.0.0.1:9/v1", "gpt-x", KEY)
    with pytest.raises(Unreachable):
        await ask(engine, question())
    await engine.close()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff\xfe", b'{"choices": []}'])
async def test_another_dialect_is_an_error(body: bytes) -> None:
    with pytest.raises(EngineError):
        await answer_of(Reply(raw=body))


async def test_the_key_is_told_to_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(UsageError) as caught:
        await answer_of(Reply(status=400, message=f"bad key {KEY} given"))
    assert KEY not in str(caught.value)
    engine = HttpEngine("http://127.0.0.1:9/v1", "gpt-x", KEY)
    assert KEY not in repr(engine)
    await engine.close()
    assert KEY not in caplog.text


def test_what_a_row_cannot_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UsageError, match="seed"):
        chat_body(question(seed=1), "mistral-small", PROVIDERS["mistral"])
    body = chat_body(question(seed=1, top_p=0.5, stop=("x",), logprobs=2), "m", UNKNOWN)
    assert (body["seed"], body["top_p"], body["stop"], body["top_logprobs"]) == (1, 0.5, ["x"], 2)


def test_a_row_is_found_by_its_address() -> None:
    assert provider_of("https://api.openai.com/v1").name == "openai"
    assert provider_of("https://api.openai.com/v1evil.example/").name == UNKNOWN.name
    assert chat_body(question(), "o", PROVIDERS["openai"])["max_completion_tokens"] == 16


MESSAGES: list[dict[str, object]] = [
    {"choices": ["x"]},
    {"choices": "x"},
    {"choices": [{"message": "x", "delta": "x"}]},
    {"choices": [{"message": {"content": ["a"]}, "delta": {"content": [{"text": "a"}]}}]},
    {"choices": [{"logprobs": "x"}]},
    {"choices": [{"logprobs": {"content": [{"logprob": 1, "top_logprobs": [1]}]}}]},
]


@pytest.mark.parametrize("said", MESSAGES)
def test_a_field_of_another_kind_is_another_dialect(said: dict[str, object]) -> None:
    for read in (_whole, _piece):
        with pytest.raises(ValueError, match=r"kind of value|no text"):
            _formed(read, msgspec.json.encode(said))


async def test_a_stream_with_parts_for_text_is_an_error_of_the_engine() -> None:
    event = b'data: {"choices": [{"delta": {"content": [{"text": "a"}]}}]}\n\n'
    with pytest.raises(EngineError, match="no form of the OpenAI dialect"):
        await answer_of(Reply(raw=event))
