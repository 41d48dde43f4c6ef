"""What was delivered and could not be booked: tried again until it is, at the latest when the gateway closes.

It is bounded by itself: while the ledger cannot be written nothing is reserved, so nothing is admitted. Until
it is booked its worst case stays held against the key's budget.
"""

import asyncio
import logging

from dutchdoor.core import LedgerError
from dutchdoor.gateway import log
from dutchdoor.ledger.requests import Used
from dutchdoor.ledger.store import Ledger

FIRST_S = 0.2  # before the second try; each pause is twice the one before
LONGEST_S = 30.0


class Unbooked:
    """Requests whose settlement failed. Settling twice is harmless: the first one stands."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._owed: dict[str, Used] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, request: str, used: Used) -> None:
        """Book it as soon as the ledger can be written."""
        if self._closed:
            _lost(request, used)
            return
        self._owed[request] = used
        if self._task is None:
            self._task = asyncio.ensure_future(self._retry())

    async def close(self) -> None:
        """Try once more; what cannot be booked is in the log, and open in the ledger."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._try()
        for request, used in self._owed.items():
            _lost(request, used)

    async def _retry(self) -> None:
        pause = FIRST_S
        while self._owed:
            if not await self._try():
                log.write(log.faults, logging.ERROR, "unbooked", requests=len(self._owed), ids=[*self._owed])
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_S)
        self._task = None

    async def _try(self) -> bool:
        """Try all at once, so that they share a transaction and none stands in another's way."""
        owed = list(self._owed.items())
        tried = await asyncio.gather(*(self._settle(*each) for each in owed))
        return all(tried)

    async def _settle(self, request: str, used: Used) -> bool:
        try:
            settled = await self._ledger.settle(request, used)
        except LedgerError:
            return False
        del self._owed[request]
        if settled is not None:  # else it had been booked after all
            log.write(log.faults, logging.WARNING, "booked-late", **_fields(request, used))
        return True


def _lost(request: str, used: Used) -> None:
    log.write(log.faults, logging.ERROR, "never-booked", **_fields(request, used))


def _fields(request: str, used: Used) -> dict[str, object]:
    """What is needed to book it by hand."""
    return {
        "id": request,
        "target": used.target,
        "state": used.state,
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
    }
