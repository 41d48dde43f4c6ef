"""A whole gateway of a family that nobody watches, for `up`: see `reload` for those who do."""

import contextlib
from pathlib import Path

from dutchdoor.family.load import LoadedFamily
from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.protocol.asgi import App
from dutchdoor.gateway.routing.family import FamilySource
from dutchdoor.gateway.routing.opening import Opener
from dutchdoor.ledger.store import Ledger
from dutchdoor.policy.decision import Decision


async def build_from_family(
    loaded: LoadedFamily,
    decision: Decision,
    data: Path,
    *,
    ledger: Ledger | None = None,
    threads: int | None = None,
    pages: App | None = None,
) -> Gateway:
    """The gateway over every member whose API channel is open, each under its own name.

    The gateway owns the ledger from then on.
    """
    async with contextlib.AsyncExitStack() as undo:
        ledger = ledger or await Ledger.open_in(data)
        undo.push_async_callback(ledger.close)
        source = FamilySource(loaded.path, Opener(data, threads=threads))
        built = await source.build_from(loaded, decision)
        undo.pop_all()
        return Gateway(ledger, built.routes.values(), pages=pages)
