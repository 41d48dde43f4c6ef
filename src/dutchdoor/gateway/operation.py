"""What a serving process can be asked to do besides answering: to tell its numbers, and to load its routes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Given to a gateway by whoever serves it. `routes` is the routes file, null where something else is
    served; `serving` the folder in which processes say what they serve; `reload` asks every worker.
    """

    serving: Path
    reload: Callable[[], None]
    metrics: Callable[[], str]
    routes: Path | None = None
    open_metrics: bool = False  # whether the numbers are told without an admin's key
