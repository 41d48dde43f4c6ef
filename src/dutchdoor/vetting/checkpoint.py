"""What a run of a suite has come to so far: one line a case, appended as it happens.

A process that is killed loses no line it has written; a power cut loses at most what was written since the last
sync, about a second. A torn last line, or a file of another run, is dropped. Holds outcomes only, no prompt and
no answer. In memory there are eight bytes a case, wherever its outcome is read from again.
"""

import os
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

from dutchdoor.core import EvidenceError
from dutchdoor.evidence.record import Outcome

SYNC_EVERY_S = 1.0  # what a power cut may cost; a kill of the process costs nothing
LONGEST_LINE = 1 << 16  # bytes; an outcome holds an id, a cluster and a short reason
NOWHERE = -1


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: which run this is."""

    kind: Literal["dutchdoor/checkpoint@2"] = "dutchdoor/checkpoint@2"
    run: str  # the address that the evidence will have, and the version of the code that scores
    cases: int


class Line(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One case: its place in the suite, what came out, and whether the answer was empty."""

    at: int
    outcome: Outcome
    empty: bool = False


class Checkpoint:
    """The outcomes of one run over `cases` cases. Use as a context manager; one process at a time.

    A line with an error says that the case is missing: it counts in this run, and the next one asks it again.
    """

    def __init__(self, path: Path, run: str, cases: int) -> None:
        self.path = path
        self._begin(Head(run=run, cases=cases))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._end = self._recover()
            os.ftruncate(self._file, self._end)
            if self._end == 0:
                self._write(msgspec.json.encode(self._head) + b"\n")
        except OSError as error:
            raise EvidenceError(
                f"can't write {path}: {error.strerror}", hint="--data names a folder you can write"
            ) from error

    def _begin(self, head: Head) -> None:
        self._head = head
        self._offsets = array("q", (NOWHERE,)) * head.cases  # of the newest line of each case
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Line).decode
        self._synced = time.monotonic()
        self.finished = 0  # cases that are not asked again

    @classmethod
    def passing(cls, cases: int) -> Self:
        """One without a name that nobody resumes; it is gone when it is closed."""
        made = cls.__new__(cls)
        handle, name = tempfile.mkstemp(prefix="dutchdoor-")
        Path(name).unlink()
        made.path, made._file, made._end = Path(name), handle, 0
        made._begin(Head(run="", cases=cases))
        return made

    def has(self, at: int) -> bool:
        """Whether the case at this place came out, in this run or, unless it was missing, in an earlier one."""
        return self._offsets[at] != NOWHERE

    def add(self, at: int, outcome: Outcome, *, empty: bool = False) -> None:
        """Keep what a case came to; it is with the operating system when this returns."""
        start = self._end
        self._write(self._encode(Line(at, outcome, empty)) + b"\n")
        self._offsets[at] = start
        self.finished += outcome.error is None
        if (now := time.monotonic()) - self._synced >= SYNC_EVERY_S:
            os.fsync(self._file)
            self._synced = now

    def lines(self) -> Iterator[Line]:
        """All cases that came out, in the suite's order, read from the file one at a time."""
        for offset in self._offsets:
            if offset != NOWHERE:
                yield self._decode(os.pread(self._file, LONGEST_LINE, offset).partition(b"\n")[0])

    def outcomes(self) -> Iterator[Outcome]:
        """As `lines`, the outcomes only."""
        return (line.outcome for line in self.lines())

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

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            written = os.pwrite(self._file, rest, self._end)
            self._end += written
            rest = rest[written:]

    def _recover(self) -> int:
        """Find what an earlier process left; the offset behind the last whole line, 0 to begin anew."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            first = file.readline(LONGEST_LINE)
            try:
                if not first.endswith(b"\n") or msgspec.json.decode(first, type=Head) != self._head:
                    return 0
            except msgspec.MsgspecError:
                return 0
            end = len(first)
            while text := file.readline(LONGEST_LINE):
                try:
                    line = self._decode(text)
                except msgspec.MsgspecError:
                    break  # torn: what may lie behind it is asked again
                if not text.endswith(b"\n") or not 0 <= line.at < len(self._offsets):
                    break
                if line.outcome.error is None and self._offsets[line.at] == NOWHERE:
                    self._offsets[line.at] = end
                    self.finished += 1
                end += len(text)
        return end
