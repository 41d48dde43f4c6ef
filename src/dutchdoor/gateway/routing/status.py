"""What each serving process says of its routes, in its run file, and who reads it."""

import contextlib
from pathlib import Path

import msgspec

from dutchdoor.ledger import runs


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a serving process says of its routes after each attempt to load them."""

    pid: int
    routes: str  # the absolute path of the file
    digest: str | None  # of the bytes that were read last, whether they were taken or refused
    error: str | None
    base_url: str | None


def serves(status: Status, path: Path) -> bool:
    """Whether a process serves this file."""
    return Path(status.routes).resolve() == path.resolve()


def statuses(serving: Path) -> list[Status]:
    """What the living processes of a data folder last said; one that said nothing yet is left out."""
    found = []
    for said in runs.living(serving) if serving.is_dir() else ():
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(said, type=Status))
    return found
