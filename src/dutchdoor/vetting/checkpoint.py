"""What a run of a suite has finished so far: one line a case, appended as it happens.

A process that is killed loses no line it has written; a power cut loses at most the lines since the last
fsync. A torn last line, or a file of another run, is dropped. Holds outcomes only, no prompt and no answer.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from dutchdoor.core import EvidenceError
from dutchdoor.evidence.record import Outcome

SYNC_EVERY = 64  # lines: about one fsync a second at the pace of a small model


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: which run this is."""

    kind: Literal["dutchdoor/checkpoint@1"] = "dutchdoor/checkpoint@1"
    run: str  # the address that the evidence will have, and the version of the code that scores


class Checkpoint:
    """The finished outcomes of one run. Use as a context manager; one process at a time."""

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._head = Head(run=run)
        self._unsynced = 0
        self.finished: dict[str, Outcome] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            end = self._recover()
            os.ftruncate(self._file, end)
            os.lseek(self._file, end, os.SEEK_SET)
            if end == 0:
                self._write(self._head)
        except OSError as error:
            raise EvidenceError(
                f"can't write {path}: {error.strerror}", hint="--data names a folder you can write"
            ) from error

    def add(self, outcome: Outcome) -> None:
        """Keep a finished outcome; it is with the operating system when this returns."""
        self.finished[outcome.id] = outcome
        self._write(outcome)
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY:
            os.fsync(self._file)
            self._unsynced = 0

    def remove(self) -> None:
        """Forget the run: its evidence is stored."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def _write(self, line: Head | Outcome) -> None:
        rest = memoryview(msgspec.json.encode(line) + b"\n")
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _recover(self) -> int:
        """Read what an earlier process left; the offset behind the last whole line, 0 to begin anew."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            first = file.readline()
            try:
                if not first.endswith(b"\n") or msgspec.json.decode(first, type=Head) != self._head:
                    return 0
            except msgspec.MsgspecError:
                return 0
            end = len(first)
            decode = msgspec.json.Decoder(Outcome).decode
            for line in file:
                try:
                    outcome = decode(line)
                except msgspec.MsgspecError:
                    break  # torn: what may lie behind it is asked again
                if not line.endswith(b"\n"):
                    break
                self.finished[outcome.id] = outcome
                end += len(line)
        return end
