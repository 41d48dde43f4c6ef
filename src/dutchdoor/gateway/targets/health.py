"""How a target has done lately: a breaker for each, and a budget of further tries for each route.

A target that failed several times in a row is left out for a while, then tried with one request. Further
tries are a share of all requests, so that a failing upstream is not asked twice as often because it fails.
"""

import random

FAILURES = 5  # in a row, until a target is left out
OPEN_S = 2.0  # at first; each time that its trial fails, twice as long
LONGEST_OPEN_S = 60.0
TRIES_PER_REQUEST = 0.2
MOST_TRIES = 10.0  # that may be saved up
PAUSE_S = 0.05  # before the first further try; each is twice the one before, drawn at random up to that
LONGEST_PAUSE_S = 2.0
LONGEST_WAIT_S = 5.0  # that a target may ask for with `Retry-After` and still be waited for


class Breaker:
    """One target's. Times in seconds on one monotonic clock."""

    __slots__ = ("_failures", "_open_s", "_trying", "_until")

    def __init__(self) -> None:
        self._failures = 0
        self._open_s = OPEN_S
        self._until: float | None = None  # null: closed
        self._trying = False

    def allows(self, now: float) -> bool:
        """Whether a request may go there; after the pause one is let through, and the others wait for it."""
        if self._until is None:
            return True
        if self._trying or now < self._until:
            return False
        self._trying = True
        return True

    def left_s(self, now: float) -> float:
        """Seconds until it may be tried again."""
        return 0.0 if self._until is None else max(0.0, self._until - now)

    def succeeded(self) -> None:
        self._failures = 0
        self._open_s = OPEN_S
        self._until = None
        self._trying = False

    def failed(self, now: float, *, trial: bool) -> None:
        """`trial`: it was the one request that was let through."""
        self._failures += 1
        if trial:
            self._open_s = min(2 * self._open_s, LONGEST_OPEN_S)
            self._trying = False
        elif self._until is not None or self._failures < FAILURES:
            return  # what was asked before the pause tells nothing new
        self._until = now + self._open_s

    def gave_up(self) -> None:
        """The trial ended without telling anything of the target: its client left, or the fault was its
        own. The next request is the trial.
        """
        self._trying = False

    @property
    def is_open(self) -> bool:
        return self._until is not None


class Tries:
    """The further tries that a route may still make."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MOST_TRIES

    def asked(self) -> None:
        """A request came: it earns a part of a further try."""
        self._left = min(MOST_TRIES, self._left + TRIES_PER_REQUEST)

    def take(self) -> bool:
        """Whether one more may be made."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def pause_s(number: int, told_s: float | None) -> float | None:
    """Seconds before the further try of that number (from 0); what a target told goes first. Null: it asks
    for more than a client should be kept waiting.
    """
    if told_s is not None:
        return told_s + random.uniform(0, PAUSE_S) if told_s <= LONGEST_WAIT_S else None  # noqa: S311
    return random.uniform(0, min(LONGEST_PAUSE_S, PAUSE_S * 2**number))  # noqa: S311 - no secret
