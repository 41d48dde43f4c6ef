"""The count of one key over a sliding minute, as whole numbers in a row of cells.

A cell for each second and kind: what falls into a second counts until the last instant of it is a minute old.
So no span of a minute, wherever it begins, holds more than the limit, and what was taken is free again after
60 to 61 seconds. The cells are a list, or a piece of memory that processes share: whoever dies in the middle
of a change leaves at most its own request counted or not, since the sums are made anew each second.
"""

from collections.abc import MutableSequence
from typing import Any

from dutchdoor.gateway.limits.interface import LimitError, Standing

WINDOW_S = 60
SECONDS = WINDOW_S + 1  # the one that is running, and those before it that a span of a minute may touch

SECOND, REQUESTS, TOKENS = 0, 1, 2  # the newest second that was counted in, and the two sums
PER_REQUESTS = 3
PER_TOKENS = PER_REQUESTS + SECONDS
CELLS = PER_TOKENS + SECONDS

Cells = MutableSequence[int] | Any  # a memoryview of 64-bit numbers is no MutableSequence by its type


def empty() -> list[int]:
    """A key that has taken nothing."""
    return [0] * CELLS


def take(cells: Cells, now: float, rpm: int | None, tpm: int | None, tokens: int) -> None:
    """Count one request of so many tokens; raises LimitError and counts nothing. `now` in seconds.

    Tokens of a key without a limit of tokens are not counted.
    """
    if int(now) != cells[SECOND]:
        advance(cells, int(now))
    if rpm is not None and cells[REQUESTS] >= rpm:
        raise _over(cells, now, "requests", PER_REQUESTS, cells[REQUESTS], rpm - 1)
    at = cells[SECOND] % SECONDS
    if tpm is not None:
        if cells[TOKENS] + tokens > tpm:
            raise _over(cells, now, "tokens", PER_TOKENS, cells[TOKENS], tpm - tokens)
        cells[PER_TOKENS + at] += tokens
        cells[TOKENS] += tokens
    cells[PER_REQUESTS + at] += 1
    cells[REQUESTS] += 1


def give_back(cells: Cells, now: float, tokens: int, ago_s: float) -> None:
    """Take tokens out of the second they were counted in; where that has gone by, they are free already.

    `ago_s` may be a little more than the truth, so the second after it is looked at as well. Taking from a
    second before the true one only ever counts too much.
    """
    if int(now) != cells[SECOND]:
        advance(cells, int(now))
    newest = cells[SECOND]
    for second in (int(now - ago_s), int(now - ago_s) + 1):
        if newest - SECONDS < second <= newest:
            at = PER_TOKENS + second % SECONDS
            back = min(tokens, cells[at])
            cells[at] -= back
            cells[TOKENS] -= back
            tokens -= back


def standing(cells: Cells, now: float) -> Standing:
    """What is counted now."""
    if int(now) != cells[SECOND]:
        advance(cells, int(now))
    return Standing(
        requests=cells[REQUESTS],
        tokens=cells[TOKENS],
        requests_reset_s=_reset_s(cells, now, PER_REQUESTS) if cells[REQUESTS] else 0.0,
        tokens_reset_s=_reset_s(cells, now, PER_TOKENS) if cells[TOKENS] else 0.0,
    )


def advance(cells: Cells, second: int) -> None:
    """Forget what has gone by. A clock that stepped back a little counts in the newest second; one that is
    far off is that of another start of the machine.
    """
    newest = cells[SECOND]
    if not -SECONDS < second - newest < SECONDS:
        for at in range(PER_REQUESTS, CELLS):
            cells[at] = 0
    else:
        for gone in range(newest + 1, second + 1):
            cells[PER_REQUESTS + gone % SECONDS] = cells[PER_TOKENS + gone % SECONDS] = 0
        second = max(second, newest)
    cells[REQUESTS] = sum(cells[PER_REQUESTS:PER_TOKENS])
    cells[TOKENS] = sum(cells[PER_TOKENS:CELLS])
    cells[SECOND] = second  # last: what is cut off before it is done again


def is_idle(cells: Cells, now: float) -> bool:
    """Whether nothing of it counts any more."""
    return not -SECONDS < int(now) - cells[SECOND] < SECONDS


def _over(cells: Cells, now: float, which: str, start: int, used: int, most: int) -> LimitError:
    """The error that says when at most `most` is used."""
    if most < 0:
        return LimitError(which, float(WINDOW_S), never=True)
    newest = cells[SECOND]
    for second in range(newest - WINDOW_S, newest + 1):
        used -= cells[start + second % SECONDS]
        if used <= most:
            return LimitError(which, second + SECONDS - now)
    raise AssertionError("unreachable")  # pragma: no cover - with nothing used there is room


def _reset_s(cells: Cells, now: float, start: int) -> float:
    newest = cells[SECOND]
    for second in range(newest, newest - SECONDS, -1):
        if cells[start + second % SECONDS]:
            return float(second + SECONDS - now)
    return 0.0
