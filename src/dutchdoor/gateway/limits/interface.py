"""What a rate limit is: so many requests, and so many tokens, of one key in any minute.

Money is held by the ledger; a limit protects targets and neighbours from a key that asks too often.
"""

import math
from collections.abc import Awaitable
from typing import Protocol

import msgspec

from dutchdoor.gateway.errors import ApiError, rate_limited

Headers = tuple[tuple[bytes, bytes], ...]
Names = tuple[bytes, bytes, bytes]


def _names(which: bytes) -> Names:
    return (b"x-ratelimit-limit-" + which, b"x-ratelimit-remaining-" + which, b"x-ratelimit-reset-" + which)


REQUESTS, TOKENS = _names(b"requests"), _names(b"tokens")


class LimitError(Exception):
    """A key is over a limit. `which` is `requests` or `tokens`; `never`: one request alone is too large."""

    def __init__(self, which: str, retry_after_s: float, *, never: bool = False) -> None:
        super().__init__(f"{which}: again in {retry_after_s:.1f} s")
        self.which = which
        self.retry_after_s = retry_after_s
        self.never = never

    def answer(self) -> ApiError:
        """429 with `retry-after`; or, where waiting does not help, 429 that says so."""
        if not self.never:
            return rate_limited(self.which, self.retry_after_s)
        return ApiError(
            429,
            f"Request too large: it may come to more {self.which} than this key has in a minute.",
            type=self.which,
            code="rate_limit_exceeded",
            headers=((b"x-should-retry", b"false"),),
        )


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a key has used in the present window, and when all of it is free again (seconds from now)."""

    requests: int = 0
    tokens: int = 0
    requests_reset_s: float = 0.0
    tokens_reset_s: float = 0.0

    def headers(self, rpm: int | None, tpm: int | None) -> Headers:
        """OpenAI's `x-ratelimit-…` headers; none for a limit that the key does not have."""
        made: Headers = ()
        if rpm is not None:
            made += _headers(REQUESTS, rpm, self.requests, self.requests_reset_s)
        if tpm is not None:
            made += _headers(TOKENS, tpm, self.tokens, self.tokens_reset_s)
        return made


class Limits(Protocol):
    """Counts what keys ask for."""

    def take(self, key: str, rpm: int | None, tpm: int | None, tokens: int) -> Awaitable[None] | None:
        """Count one request of so many tokens, or raise LimitError and count nothing; what must ask elsewhere
        returns something to wait for.
        """
        ...

    def give_back(self, key: str, tokens: int, ago_s: float = 0.0) -> None:
        """Tokens that a request had counted `ago_s` seconds ago, or a little later, and did not use."""
        ...

    def headers(self, key: str, rpm: int | None, tpm: int | None) -> Headers:
        """What a client is told of its limits; nothing where it has none. Never waits."""
        ...

    async def close(self) -> None: ...


def _headers(names: Names, limit: int, used: int, reset_s: float) -> Headers:
    reset = math.ceil(reset_s * 1000) / 1000
    return (
        (names[0], b"%d" % limit),
        (names[1], b"%d" % max(0, limit - used)),
        (names[2], b"%gs" % reset),
    )
