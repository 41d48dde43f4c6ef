"""Events are passed on byte for byte however the network cuts them; only the usage is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.engines.interface import Usage
from dutchdoor.gateway.dialects.sse import EventStream

WORDS = [
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}',
    b'data: {"choices":[{"delta":{"content":"one \\"usage\\": {"}}]}',
    b": a comment",
    b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
]
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
DONE = b"data: [DONE]"


def cut(data: bytes, sizes: list[int]):
    at = 0
    for size in [*sizes, len(data)]:
        if at < len(data):
            yield data[at : at + size]
            at += size


@given(st.lists(st.integers(1, 60), max_size=40), st.booleans(), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_however_it_is_cut_the_same_comes_out(sizes: list[int], keep: bool, gap: bytes) -> None:
    data = b"".join(event + gap for event in [*WORDS, USAGE, DONE])
    stream = EventStream(keep_usage=keep)
    out = b"".join(stream.feed(piece) for piece in cut(data, sizes)) + stream.close()
    assert out == b"".join(event + gap for event in (*WORDS, *((USAGE,) if keep else ())))
    assert stream.usage == Usage(input_tokens=3, output_tokens=2)
    assert stream.tail.startswith(DONE) and stream.finished and not stream.failed
    assert stream.relayed == 2


@pytest.mark.parametrize("usage", [b"null", b"[]", b'"x"', b"{}", b'{"prompt_tokens":-1}'])
def test_a_usage_that_cannot_be_read_is_passed_on_and_not_believed(usage: bytes) -> None:
    event = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":' + usage + b"}\n\n"
    stream = EventStream(keep_usage=False)
    assert stream.feed(event) == event and stream.usage is None


def test_nothing_comes_after_the_end_marker() -> None:
    stream = EventStream(keep_usage=False)
    assert stream.feed(b"data: [DONE]\n\n") == b"" and stream.feed(b"data: more\n\n") == b""
    assert stream.tail == b"data: [DONE]\n\n"


def test_an_error_in_the_stream_is_seen() -> None:
    stream = EventStream(keep_usage=False)
    assert stream.feed(WORDS[0] + b'\n\ndata: {"error": {"message": "x"}}\n\n') == WORDS[0] + b"\n\n"
    assert stream.failed and stream.feed(WORDS[0] + b"\n\n") == b""


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"id":"x","choices":[],"error":{"message":"x"}}',
        b'data: {"error":"x","choices":null}',
        b'event: error\ndata: {"message":"x"}',
    ],
)
def test_an_error_is_seen_wherever_its_event_says_so(event: bytes) -> None:
    stream = EventStream(keep_usage=False)
    assert stream.feed(event + b"\n\n") == b"" and stream.failed


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error": null,"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"{\\"error\\": 1}"}}]}\n\n',
        b'data: {"choices":[{"delta":{"x":{"error": 1}}}]}\n\n',
    ],
)
def test_what_only_speaks_of_an_error_is_passed_on(event: bytes) -> None:
    stream = EventStream(keep_usage=False)
    assert stream.feed(event) == event and not stream.failed
