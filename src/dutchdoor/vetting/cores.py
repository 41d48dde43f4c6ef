"""The machine's cores as something to take turns with: so many at once, first come, first served."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def cores_here() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Cores:
    """`async with cores.take(n):` waits until n cores are free and holds them. Never more than there are."""

    def __init__(self, total: int | None = None) -> None:
        self.total = total or cores_here()
        self._free = self.total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, wanted: int) -> AsyncIterator[int]:
        """Hold `wanted` cores (at most all there are); yields how many."""
        count = max(1, min(wanted, self.total))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        self._next()
        try:
            await turn
            yield count
        finally:
            if turn.done() and not turn.cancelled():
                self._free += count
            else:
                self._waiting = deque(each for each in self._waiting if each[1] is not turn)
            self._next()

    def _next(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= count
                turn.set_result(None)
