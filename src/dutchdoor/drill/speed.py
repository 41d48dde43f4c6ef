"""From timed replies to speeds: medians and tails.

Pure. Takes what was measured and measures nothing itself.
"""

import math
from collections.abc import Callable, Sequence

from dutchdoor.drill.report import Lengths, Reply, Speed, Spread

TAIL = 0.95  # the share of requests that did better than the tail


def spread(values: Sequence[float], *, bad: Callable[[Sequence[float]], float] = max) -> Spread | None:
    """Median and nearest-rank tail of `values`; `bad` is the end that hurts (`max` for times)."""
    if not values:
        return None
    ordered = sorted(values, reverse=bad is min)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Spread(median=median, tail=ordered[math.ceil(TAIL * len(ordered)) - 1], n=len(ordered))


def speed(replies: Sequence[Reply], *, streams: int, wall_s: float) -> Speed | None:
    """The speed of those `replies` that are answers, None without any; all took `wall_s` together."""
    answers = [reply for reply in replies if reply.text is not None]
    if not answers:
        return None
    tokens = [reply.output_tokens for reply in answers if reply.output_tokens is not None]
    complete = (
        len(tokens) == len(answers) == len(replies)
    )  # else the sum would be of a part and the wall of the whole
    return Speed(
        streams=streams,
        requests=len(answers),
        first_token_s=spread([reply.first_token_s for reply in answers if reply.first_token_s is not None]),
        answer_s=spread([reply.total_s for reply in answers if reply.total_s is not None]),
        tokens_per_s=spread([rate for reply in answers if (rate := _token_rate(reply)) is not None], bad=min),
        characters_per_s=spread(
            [rate for reply in answers if (rate := _character_rate(reply)) is not None], bad=min
        ),
        together_tokens_per_s=sum(tokens) / wall_s if complete and wall_s > 0 else None,
    )


def _decoding_s(reply: Reply) -> float | None:
    """Seconds from the first token to the end; None when it is no time at all."""
    if reply.first_token_s is None or reply.total_s is None:
        return None
    seconds = reply.total_s - reply.first_token_s
    return seconds if seconds > 0 else None


def _token_rate(reply: Reply) -> float | None:
    """Tokens per second after the first one."""
    seconds = _decoding_s(reply)
    if seconds is None or reply.output_tokens is None or reply.output_tokens < 2:
        return None
    return (reply.output_tokens - 1) / seconds


def _character_rate(reply: Reply) -> float | None:
    """Characters per second of the whole answer, waiting included: what a reader sees."""
    if not reply.text or not reply.total_s:
        return None
    return len(reply.text) / reply.total_s


def lengths(replies: Sequence[Reply]) -> Lengths | None:
    """How long the answers among `replies` were on average."""
    answers = [reply for reply in replies if reply.text is not None]
    if not answers:
        return None
    return Lengths(
        input_tokens=_mean([reply.input_tokens for reply in answers]),
        output_tokens=_mean([reply.output_tokens for reply in answers]),
        characters=sum(len(reply.text or "") for reply in answers) / len(answers),
        empty=sum(not reply.text for reply in answers),
        cut_off=sum(reply.finish_reason == "length" for reply in answers),
    )


def _mean(values: Sequence[int | None]) -> float | None:
    """The mean, or None as soon as one of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
