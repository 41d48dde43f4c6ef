"""Completions and embeddings: bodies go on untouched; only what the gateway needs is read."""

import json
from typing import Any

import pytest

from dutchdoor.gateway.dialects.completions import CompletionsDialect
from dutchdoor.gateway.dialects.embeddings import EmbeddingsDialect
from dutchdoor.gateway.errors import ApiError
from tests.unit.gateway.dialects.front import call

COMPLETIONS, EMBEDDINGS = CompletionsDialect(), EmbeddingsDialect()


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m"} | fields).encode()


@pytest.mark.parametrize(
    ("texts", "prompts", "said"),
    [
        ("hé", 1, 3),
        (["a", "bc"], 2, 3),
        ([1, 2, 3], 1, 12),
        ([[1, 2], [3]], 2, 12),
    ],
)
def test_texts_and_tokens_are_counted(texts: Any, prompts: int, said: int) -> None:
    asked = COMPLETIONS.read(body(prompt=texts, n=2, best_of=3, max_tokens=5))
    assert (asked.prompts, asked.said, asked.choices, asked.cap) == (prompts, said, 3 * prompts, 5)
    embedded = EMBEDDINGS.read(body(input=texts))
    assert (embedded.prompts, embedded.said, embedded.choices, embedded.cap) == (prompts, said, 1, 0)


def test_tokens_are_bound_by_the_bytes_that_name_them() -> None:
    tokens = list(range(1000))
    asked = EMBEDDINGS.read(body(input=tokens))
    admitted = call(asked)
    assert admitted.input_guess == len(tokens) <= admitted.input_bound


def test_bodies_stay_as_they_are() -> None:
    raw = b'{ "model":"m","prompt" : "a", "echo":true, "stream":true,"stream_options":{"include_usage":true},"x":1e400}'
    asked = COMPLETIONS.read(raw)
    assert (asked.body, asked.operation) == (raw, "completions")
    assert (asked.stream, asked.include_usage, asked.cap) == (True, True, None)
    assert COMPLETIONS.answer(call(asked), b"x") == b"x"
    assert COMPLETIONS.translator(call(asked)) is None
    embedded = EMBEDDINGS.read(b'{"model":"m","input":"a","dimensions":3}')
    assert (embedded.body, embedded.operation) == (b'{"model":"m","input":"a","dimensions":3}', "embeddings")
    assert EMBEDDINGS.answer(call(embedded), b"x") == b"x"
    assert EMBEDDINGS.translator(call(embedded)) is None


def test_a_prompt_may_be_left_out() -> None:
    assert COMPLETIONS.read(body()).prompts == 1


def test_a_prompt_may_only_be_scored() -> None:
    assert COMPLETIONS.read(body(prompt="a", max_tokens=0, echo=True)).cap == 0


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ["a", 1]}),
        ("prompt", {"prompt": [[1], "a"]}),
        ("prompt", {"prompt": {"a": 1}}),
        ("prompt", {"prompt": ["a"] * 2049}),
        ("prompt[0][0]", {"prompt": [["a"]]}),
        ("max_tokens", {"max_tokens": -1}),
        ("n", {"n": 0}),
        ("best_of", {"best_of": 1000}),
        ("stream_options", {"stream_options": {"include_usage": True}}),
        ("model", {"model": None}),
    ],
)
def test_completions_that_cannot_be_counted_are_refused(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        COMPLETIONS.read(body(**({"prompt": "a"} | fields)))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert json.loads(COMPLETIONS.error(caught.value))["error"]["param"] == param


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("input", {}),
        ("input", {"input": None}),
        ("input", {"input": []}),
        ("stream", {"input": "a", "stream": True}),
    ],
)
def test_embeddings_of_nothing_and_streams_are_refused(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        EMBEDDINGS.read(body(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)


def test_streams_that_break_end_with_an_error() -> None:
    for dialect in (COMPLETIONS, EMBEDDINGS):
        event = dialect.broken("It broke off.")
        assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "stream_broken"
