"""A translation in front of a client's connection: OpenAI's events in, another dialect's out."""

from collections.abc import Callable

from dutchdoor.gateway.dialects.interface import Translator
from dutchdoor.gateway.targets.interface import Outlet


class Translation:
    """An `Outlet` that translates what is written to it."""

    def __init__(self, out: Outlet, translator: Translator) -> None:
        self._out = out
        self._translator = translator

    def write(self, data: bytes) -> None:
        if translated := self._translator.feed(data):
            self._out.write(translated)

    async def drain(self) -> None:
        await self._out.drain()

    def on_pressure(self, hold: Callable[[bool], None]) -> None:
        self._out.on_pressure(hold)
