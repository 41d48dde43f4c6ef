"""Engines that several targets share: each model is loaded once, and closed when the last one lets it go."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from dutchdoor.engines.interface import ChatRequest, Chunk, Engine, EngineInfo
from dutchdoor.engines.load import open_engine
from dutchdoor.gateway.targets.engine import PARALLEL


class EngineShelf:
    """The engines of this process by the path of their weights."""

    def __init__(self, *, cache: Path, threads: int | None = None) -> None:
        self._cache = cache
        self._threads = threads
        self._engines: dict[Path, Engine] = {}
        self._lent: dict[Path, int] = {}
        self._loading = asyncio.Lock()  # two at once would need the memory of both, and load one model twice

    async def lend(self, weights: Path) -> Engine:
        """The engine of some weights, loaded if it is not yet; closing it gives it back.

        Raises EngineError, WeightsError or MissingExtraError.
        """
        path = _place(weights)
        async with self._loading:
            if path not in self._engines:
                self._engines[path] = await open_engine(
                    weights, threads=self._threads, parallel=PARALLEL, cache=self._cache
                )
            self._lent[path] = self._lent.get(path, 0) + 1
        return LentEngine(self, path, self._engines[path])

    async def give_back(self, path: Path) -> None:
        """Close the engine when nobody holds it any more."""
        self._lent[path] -= 1
        if self._lent[path] == 0:
            del self._lent[path]
            await self._engines.pop(path).close()


class LentEngine:
    """An engine of the shelf in one target's hands."""

    def __init__(self, shelf: EngineShelf, path: Path, engine: Engine) -> None:
        self._shelf = shelf
        self._path = path
        self._engine = engine
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        return self._engine.stream(request)

    async def close(self) -> None:
        """Give it back; closing again does nothing."""
        if not self._closed:
            self._closed = True
            await self._shelf.give_back(self._path)


def _place(weights: Path) -> Path:
    """One path for one place, whatever links lead there."""
    return weights.resolve()
