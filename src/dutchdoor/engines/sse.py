"""Server-sent events, as far as model servers use them: the payload of each `data:` line."""

from collections.abc import AsyncIterator
from typing import Protocol

MOST_EVENT_BYTES = 16 << 20  # an event that never ends must not eat the memory


class Chunks(Protocol):
    """What an HTTP body offers: aiohttp's StreamReader does."""

    def iter_any(self) -> AsyncIterator[bytes]: ...


async def events(body: Chunks) -> AsyncIterator[bytes]:
    """The payload of each `data:` line, without `[DONE]`. Comments and other fields are skipped.

    Raises ValueError for an event above MOST_EVENT_BYTES.
    """
    held = b""
    async for part in body.iter_any():
        held += part
        *lines, held = held.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload and payload != b"[DONE]":
                    yield payload
        if len(held) > MOST_EVENT_BYTES:
            raise ValueError("an event is longer than any answer")
    if held.startswith(b"data:") and (payload := held[5:].strip()) and payload != b"[DONE]":
        yield payload
