"""What a request came to, booked exactly once."""

import asyncio
import logging
from collections.abc import Awaitable

from dutchdoor.core import LedgerError
from dutchdoor.engines.interface import Usage
from dutchdoor.gateway import log
from dutchdoor.gateway.call import BYTES_PER_TOKEN, Call
from dutchdoor.gateway.routing.route import Offer
from dutchdoor.gateway.targets.interface import Stream, Whole
from dutchdoor.gateway.unbooked import Unbooked
from dutchdoor.ledger.requests import Counted, Settled, State, Used
from dutchdoor.ledger.store import Ledger


class Settlement:
    """Until a target has answered a request came to nothing.

    What cannot be booked now is left to `unbooked`, and the LedgerError goes on.
    """

    def __init__(self, ledger: Ledger, unbooked: Unbooked, call: Call, offer: Offer) -> None:
        self.offer = offer  # of the target that answers, at the price that was reserved
        self.stream: Stream | None = None
        self.state: State = "failed"
        self.booked: Used | None = None
        self.settled: Settled | None = None
        self._ledger = ledger
        self._unbooked = unbooked
        self._call = call
        self._closed = False

    def whole(self, answer: Whole) -> Awaitable[None]:
        """Book an answer in one piece."""
        if answer.usage is not None:
            used = self._used("finished", "reported", answer.usage)
        else:
            used = self._used("finished", "relayed", self._guess(-(-answer.said // BYTES_PER_TOKEN)))
        # an answer that cannot be booked is not sent, so later it is charged nothing
        return self._book(used, later=self._nothing())

    async def again(self) -> None:
        """Wait for a booking once more, where the wait was cut short; the write goes on meanwhile."""
        if self.booked is not None:
            later = await self._ledger.settle(self._call.request, self.booked)
            self.settled = later or self.settled

    async def close(self) -> Used | None:
        """Book whatever was delivered, if that was not tried yet; returns what was booked."""
        if self._closed:
            return self.booked
        if self.stream is None:
            used = self._nothing()
        else:
            state: State = "left" if self.state == "failed" else self.state
            usage = self.stream.usage
            if usage is not None:
                used = self._used(state, "reported", usage)
            else:
                used = self._used(state, "relayed", self._guess(self.stream.relayed))
        await self._book(used, later=used)
        return self.booked

    def _guess(self, output_tokens: int) -> Usage:
        return Usage(input_tokens=self._call.input_guess, output_tokens=output_tokens)

    def _nothing(self) -> Used:
        return self._used("failed", "none", Usage(input_tokens=0, output_tokens=0))

    def _used(self, state: State, counted: Counted, usage: Usage) -> Used:
        target, price = self.offer
        return Used(
            target=target.name,
            family=target.family,
            state=state,
            counted=counted,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            written_tokens=usage.written_tokens,
            price=price,
        )

    async def _book(self, used: Used, *, later: Used) -> None:
        self._closed = True
        self.booked = used
        try:
            self.settled = await self._ledger.settle(self._call.request, used)
        except asyncio.CancelledError:  # the write goes on; whether it failed is seen by settling again
            self._unbooked.add(self._call.request, later)
            raise
        except LedgerError:
            self.booked = None
            self._unbooked.add(self._call.request, later)
            raise
        if self.settled is not None and self.settled.alarm is not None:
            log.write(log.faults, logging.ERROR, "alarm", id=self._call.request, message=self.settled.alarm)
