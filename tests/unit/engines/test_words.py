"""Text from tokens: whole characters only, and no stop string slips out piecewise."""

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from dutchdoor.engines.words import BYTE_OF_SIGN, SIGN_OF_BYTE, TextStream, token_bytes


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(at)]


@given(st.text(), st.lists(st.integers(min_value=0)))
def test_text_comes_out_as_it_went_in_however_it_is_cut(text: str, cuts: list[int]) -> None:
    stream = TextStream(())
    out = "".join(stream.feed(piece) for piece in pieces(text.encode("utf-8", "replace"), cuts))
    assert out + stream.feed(b"", last=True) == text.encode("utf-8", "replace").decode()


@given(
    st.text("ab<|", max_size=30),
    st.lists(st.text("ab<|", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(min_value=0)),
)
def test_nothing_from_the_first_stop_string_on_is_ever_let_out(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    stream = TextStream(stops)
    out = ""
    for piece in pieces(text.encode(), cuts):
        out += stream.feed(piece)
    out += stream.feed(b"", last=True)
    assert not any(stop in out for stop in stops)
    assert text.startswith(out)
    assert stream.stopped == any(stop in text for stop in stops)
    if not stream.stopped:
        assert out == text


def test_of_a_character_in_pieces_nothing_is_shown_until_it_is_whole() -> None:
    stream = TextStream(())
    data = "😀".encode()
    assert [stream.feed(data[i : i + 1]) for i in range(4)] == ["", "", "", "😀"]


def test_only_the_first_space_is_stripped() -> None:
    stream = TextStream((), strip_first_space=True)
    assert stream.feed(b"") + stream.feed(b" a") + stream.feed(b" b") == "a b"


def test_the_byte_table_is_one_to_one() -> None:
    assert len(BYTE_OF_SIGN) == len(SIGN_OF_BYTE) == 256
    assert token_bytes("Ġthe", byte_level=True) == b" the"
    assert token_bytes("▁the", byte_level=False) == b" the"
    assert token_bytes("<0xE6>", byte_level=False) == b"\xe6"
