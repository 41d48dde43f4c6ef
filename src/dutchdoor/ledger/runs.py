"""Which serving processes are alive, so that what dead ones left open can be closed and several may share a
ledger.

On one host a process holds a lock on a file of its own, which the kernel drops when it dies. On PostgreSQL,
which several hosts share, its session holds an advisory lock, which the server drops with the session. No
clock is asked, and no process id, which may be used again.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from dutchdoor.core import LedgerError
from dutchdoor.ledger.database import Database

STATUS = ".status"  # what a run says about itself lies beside its file, so that it can be replaced whole


class Run:
    """A living process's claim; hold it as long as reservations are made under its id."""

    def __init__(self, folder: Path | None) -> None:
        """Claim a fresh id, in `folder` where there is one; raises LedgerError where that cannot be written."""
        self.id = "run_" + secrets.token_hex(8)
        self._path = None if folder is None else folder / self.id
        self._file = None if self._path is None else _claim(self._path)

    def write(self, text: bytes) -> None:
        """Say something about this process, to be read by `living`; the last text stands, none is torn."""
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(text)
            new.replace(self._path.with_suffix(STATUS))
        except OSError as error:
            raise LedgerError(f"{new} cannot be written: {error.strerror}") from error

    def release(self) -> None:
        """Give the claim up."""
        if self._path is not None and self._file is not None:
            _remove(self._path)
            os.close(self._file)
            self._file = None


def living(folder: Path) -> list[bytes]:
    """What each living run in a folder last said about itself; runs that said nothing are left out."""
    texts = []
    for path in _files(folder):
        if not _is_free(path):
            with contextlib.suppress(FileNotFoundError):
                texts.append(path.with_suffix(STATUS).read_bytes())
    return texts


def is_dead(folder: Path, run: str) -> bool:
    """Whether the process behind a run is gone: its file is missing, or nobody holds the lock on it."""
    return _is_free(folder / run)


def sweep(folder: Path) -> None:
    """Remove what dead runs left in a folder."""
    for path in _files(folder):
        _is_free(path, remove=True)


def hold(db: Database, run: str) -> None:
    """Hold a run's advisory lock for as long as this session lasts.

    Shared, so that a process whose session broke can hold it anew before the server has noticed.
    """
    db.rows("SELECT pg_advisory_lock_shared(?)", (_number(run),))


def sessionless(db: Database, runs: Iterable[str]) -> list[str]:
    """Those of some runs whose advisory lock no session holds."""
    rows = db.rows(
        "SELECT (classid::bigint << 32) | objid::bigint AS number FROM pg_locks WHERE locktype = 'advisory'"
        " AND objsubid = 1 AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    held = {row["number"] for row in rows}
    return [run for run in runs if _number(run) not in held]


def _claim(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(file).st_ino:
                    return file
            os.close(file)  # a sweep took it for dead between its making and its lock
    except OSError as error:
        raise LedgerError(
            f"{path.parent} cannot be written: {error.strerror}", hint="use another --data"
        ) from error


def _is_free(path: Path, *, remove: bool = False) -> bool:
    """Whether nobody holds a file, asked by locking it: removed, if at all, while we hold it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask are not in each other's way
        if remove:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(file)  # drops our lock, if we got it
    return True


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith("run_") and not path.suffix)
    except FileNotFoundError:
        return []


def _remove(path: Path) -> None:
    for each in (path.with_suffix(STATUS), path.with_suffix(".new"), path):
        each.unlink(missing_ok=True)


def _number(run: str) -> int:
    """A run's 64 random bits as PostgreSQL's signed number."""
    return int.from_bytes(bytes.fromhex(run.removeprefix("run_")), "big", signed=True)
