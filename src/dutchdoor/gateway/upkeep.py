"""What a serving process does now and then: close what dead ones left open, and keep its numbers."""

import asyncio
import logging
import random

from dutchdoor.core import LedgerError
from dutchdoor.gateway import log
from dutchdoor.gateway.metrics import Metrics
from dutchdoor.ledger.store import Ledger

NUMBERS_S = 1.0  # between two writes of the numbers; a worker that is killed loses so much of them
DEAD_S = 10.0  # between two looks for dead processes


class Upkeep:
    """A task that runs until it is stopped."""

    def __init__(self, ledger: Ledger, metrics: Metrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Stopping again does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _run(self) -> None:
        # workers that started together do not look together
        left = random.uniform(DEAD_S / 2, DEAD_S)  # noqa: S311 - no secret
        while True:
            await asyncio.sleep(NUMBERS_S)
            self._metrics.keep()
            left -= NUMBERS_S
            if left <= 0:
                left = DEAD_S
                await self._close_dead()

    async def _close_dead(self) -> None:
        try:
            interrupted = await self._ledger.close_dead_runs()
        except LedgerError as error:
            log.write(log.faults, logging.ERROR, "ledger", message=error.message)
            return
        if interrupted:
            log.write(log.faults, logging.WARNING, "interrupted", requests=len(interrupted), ids=interrupted)
