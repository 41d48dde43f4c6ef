"""From timed replies to speeds."""

import pytest

from dutchdoor.drill.report import Reply
from dutchdoor.drill.speed import lengths, speed, spread


def reply(first: float = 0.1, total: float = 1.1, tokens: int | None = 11, text: str = "x" * 22) -> Reply:
    return Reply(
        text=text,
        first_token_s=first if text else None,
        total_s=total,
        input_tokens=5,
        output_tokens=tokens,
        finish_reason="stop",
    )


def test_the_tail_of_times_is_the_slow_end_and_of_rates_the_low_end() -> None:
    values = [float(n) for n in range(1, 101)]
    times, rates = spread(values), spread(values, bad=min)
    assert times is not None
    assert rates is not None
    assert (times.median, times.tail, times.n) == (50.5, 95.0, 100)
    assert (rates.median, rates.tail) == (50.5, 6.0)


def test_with_few_values_the_tail_is_the_worst_one() -> None:
    few = spread([3.0, 1.0, 2.0])
    assert few is not None
    assert (few.median, few.tail) == (2.0, 3.0)
    assert spread([]) is None


def test_tokens_are_counted_after_the_first_and_characters_over_the_whole_answer() -> None:
    measured = speed([reply()], streams=1, wall_s=1.1)
    assert measured is not None
    assert measured.tokens_per_s is not None
    assert measured.tokens_per_s.median == pytest.approx(10.0)
    assert measured.characters_per_s is not None
    assert measured.characters_per_s.median == pytest.approx(20.0)
    assert measured.together_tokens_per_s == pytest.approx(10.0)


def test_a_target_that_counts_no_tokens_has_no_tokens_per_second() -> None:
    measured = speed([reply(tokens=None)], streams=1, wall_s=1.0)
    assert measured is not None
    assert measured.tokens_per_s is None
    assert measured.together_tokens_per_s is None
    assert measured.characters_per_s is not None


def test_a_failed_request_leaves_the_total_rate_unknown_because_its_time_is_in_the_wall_clock() -> None:
    measured = speed([reply(), Reply(text=None, error="down")], streams=4, wall_s=2.0)
    assert measured is not None
    assert measured.requests == 1
    assert measured.together_tokens_per_s is None


def test_no_answer_at_all_has_no_speed() -> None:
    assert speed([Reply(text=None, error="down")], streams=1, wall_s=1.0) is None
    assert lengths([Reply(text=None, error="down")]) is None


def test_an_empty_answer_has_a_length_but_no_first_token() -> None:
    measured = speed([reply(text="", tokens=0)], streams=1, wall_s=1.0)
    counted = lengths([reply(text="", tokens=0), reply()])
    assert measured is not None
    assert measured.first_token_s is None
    assert counted is not None
    assert (counted.empty, counted.characters, counted.input_tokens) == (1, 11.0, 5.0)
