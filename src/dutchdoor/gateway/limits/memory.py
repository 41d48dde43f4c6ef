"""Rate limits of one process."""

import time
from collections.abc import Callable

from dutchdoor.gateway.limits import window
from dutchdoor.gateway.limits.interface import Headers

MOST_KEYS = 10_000  # before those that are not in use are let go; a kilobyte each


class MemoryLimits:
    """Exact in one process; a restart forgets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys: dict[str, list[int]] = {}
        self._most = MOST_KEYS

    def take(self, key: str, rpm: int | None, tpm: int | None, tokens: int) -> None:
        cells = self._keys.get(key)
        if cells is None:
            if rpm is None and tpm is None:
                return
            cells = self._add(key)
        window.take(cells, self._clock(), rpm, tpm, tokens)

    def give_back(self, key: str, tokens: int, ago_s: float = 0.0) -> None:
        cells = self._keys.get(key)
        if cells is not None:
            window.give_back(cells, self._clock(), tokens, ago_s)

    def headers(self, key: str, rpm: int | None, tpm: int | None) -> Headers:
        if rpm is None and tpm is None:
            return ()
        cells = self._keys.get(key) or window.empty()
        return window.standing(cells, self._clock()).headers(rpm, tpm)

    async def close(self) -> None:
        self._keys.clear()

    def _add(self, key: str) -> list[int]:
        if len(self._keys) >= self._most:
            now = self._clock()
            self._keys = {name: each for name, each in self._keys.items() if not window.is_idle(each, now)}
            self._most = max(MOST_KEYS, 2 * len(self._keys))  # so that looking through all of them stays rare
        cells = self._keys[key] = window.empty()
        return cells
