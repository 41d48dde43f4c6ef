"""Letting go of a native engine whose destructor may never return."""

import asyncio
import contextlib
import logging
import threading
from typing import Any

END_S = 30.0  # for its threads to end; they commonly take some milliseconds

log = logging.getLogger(__name__)


async def let_go(holder: list[Any]) -> None:
    """Destroy what a list holds, in a thread of its own: llama.cpp's destructor waits for its threads, which
    were seen never to end. Whoever closes an engine goes on then, and a daemon keeps no process from exiting.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def destroy() -> None:
        holder.clear()
        with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=destroy, name="engine-end", daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), END_S)
    except TimeoutError:
        log.warning("the engine has not ended within %d s; its memory stays taken", END_S)
