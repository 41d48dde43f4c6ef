"""The ledger that a command only reads: where it is, and that it is there."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from dutchdoor.cli.options import Decorator, data_folder, data_option, ledger_option
from dutchdoor.core import LedgerError
from dutchdoor.ledger.store import FILE, Ledger

T = TypeVar("T")


def books_options() -> Decorator:
    """`--data` and `--ledger`, which name the ledger to read."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        decorated: Callable[..., Any] = data_option()(ledger_option("ledger_url")(command))
        return decorated

    return decorate


def read_books(data: Path | None, url: str | None, read: Callable[[Ledger], Awaitable[T]]) -> T:
    """What is read from a ledger; raises LedgerError where there is none, since reading makes none."""
    folder = data_folder(None, data)
    if url is None and not (folder / FILE).exists():
        raise LedgerError(
            f"there is no ledger in {folder}", hint="name the data folder with --data DIR, or --ledger URL"
        )

    async def opened() -> T:
        async with await Ledger.open_in(folder, url) as ledger:
            return await read(ledger)

    return asyncio.run(opened())
