"""Which serving processes are alive: each holds a lock on a file of its own, which the kernel drops when it
dies.

So a server that starts closes the reservations of dead ones only, and several may share one ledger.
"""

import fcntl
import os
import secrets
from pathlib import Path

from dutchdoor.core import LedgerError


class Run:
    """A living process's claim; hold it as long as reservations are made under its id."""

    def __init__(self, folder: Path) -> None:
        """Claim a fresh id in `folder`; raises LedgerError where that cannot be written."""
        self.id = "run_" + secrets.token_hex(8)
        self._path = folder / self.id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"{folder} cannot be written: {error.strerror}", hint="use another --data"
            ) from error
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        """Give the claim up."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def is_dead(folder: Path, run: str) -> bool:
    """Whether the process behind a run is gone: its file is missing, or nobody holds the lock on it."""
    try:
        file = os.open(folder / run, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)  # drops our lock, if we got it
    return True


def forget(folder: Path, run: str) -> None:
    """Remove the file of a dead run."""
    (folder / run).unlink(missing_ok=True)
