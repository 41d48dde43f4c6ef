"""Sending usage events to whoever bills: batches of CloudEvents over HTTP, each tried until it is taken.

At least once: a batch whose answer was lost is sent again, and the ids make that harmless. Refuses to send
a token over a line that others can read.
"""

import asyncio
import contextlib
import ipaddress
import random
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import aiohttp
import msgspec

from dutchdoor.core import LedgerError, UsageError
from dutchdoor.ledger.events import Event

CONTENT_TYPE = "application/cloudevents-batch+json"
ATTEMPTS = 6  # with the waits between them some half a minute
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0  # of what a server may ask for
TIMEOUT_S = 30.0
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may change when asked again
SHOWN = 200  # characters of an answer that are shown


class Ingest:
    """An endpoint that takes batches of events; use it as a context."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Raises UsageError for what is no HTTP address, and for a token that would go over an open line."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no address of HTTP", hint="https://openmeter.cloud/api/v1/events")
        if token and parts.scheme == "http" and not _is_here(parts.hostname):
            raise UsageError(
                f"the token would go to {parts.hostname} in the clear", hint="use https, or unset the token"
            )
        self._url = url
        self._headers = {"Content-Type": CONTENT_TYPE} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, events: Sequence[Event]) -> None:
        """Deliver a batch; raises LedgerError where it is refused, or not taken after all attempts."""
        body = msgspec.json.encode(events)
        for attempt in range(1, ATTEMPTS + 1):
            why, wait = await self._try(body)
            if not why:
                return
            if attempt == ATTEMPTS:
                raise LedgerError(f"{self._url} did not take the events: {why}", hint="try again later")
            backoff = FIRST_WAIT_S * 2 ** (attempt - 1)
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, keeps no secret
            await self._sleep(wait if wait is not None else backoff * jitter)
        raise AssertionError("unreachable")

    async def _try(self, body: bytes) -> tuple[str, float | None]:
        """Why a batch was not taken, empty if it was, and the seconds that the server asks us to wait."""
        assert self._session is not None, "used outside of its context"
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            ) as answer:
                if answer.status < 300:
                    return "", None
                why = f"{answer.status} {(await answer.text(errors='replace'))[:SHOWN]}".strip()
                if answer.status not in AGAIN:
                    raise LedgerError(f"{self._url} refuses the events: {why}")
                return why, _asked_for(answer.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error) or type(error).__name__, None


def _asked_for(retry_after: str | None) -> float | None:
    """Seconds of a `Retry-After` in seconds (RFC 9110 §10.2.3); one that is a date is left to the backoff."""
    with contextlib.suppress(ValueError):
        return min(max(float(int(retry_after or "")), 0.0), LONGEST_WAIT_S)
    return None


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
