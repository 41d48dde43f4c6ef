"""The release log of a family: what was committed, measured, decided and packed, in order, signed.

One DSSE envelope a line, each with the digest of the line before. A line that was edited, removed or swapped
breaks the chain; a last line that was removed is told by the file `.head` beside it, and by the head that
dossiers carry. Whoever can write both files and packed nothing yet can still cut the end off.
Appends are durable, one writer at a time; half a line that an interrupted append left was never acknowledged
and is cut off by the next one.
"""

import contextlib
import datetime
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import msgspec

from dutchdoor.core import EvidenceError, canonical_json, digest_bytes
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Evidence, Record
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey
from dutchdoor.evidence.store import write_atomically

PAYLOAD_TYPE = "application/vnd.dutchdoor.release-log.v1+json"
LARGEST_LINE = 1 << 16  # bytes; a line of ours has below 1,000
LONGEST_NAME = 200  # characters

Kind = Literal["policy", "evidence", "decision", "pack", "publish"]
KINDS: tuple[str, ...] = get_args(Kind)


class Entry(Record, frozen=True, kw_only=True):
    """What one line says. `subject` is the digest or commitment of what happened, `name` is for a reader."""

    log: Literal["dutchdoor/release-log@1"] = "dutchdoor/release-log@1"
    family: str
    sequence: int  # 0, 1, 2 …
    previous: str | None  # digest of the line before; null at the first
    kind: Kind
    subject: str
    name: str | None = None
    at: str  # RFC 3339, UTC, as the signer's clock had it


@dataclass(frozen=True)
class Logged:
    """A line that was read: what it says, who signed it, and whether that was checked with a key at hand."""

    entry: Entry
    key_id: str
    verified: bool
    trusted: bool
    line: bytes

    @property
    def digest(self) -> str:
        return digest_bytes(self.line)


@dataclass(frozen=True)
class ReleaseLog:
    """Where the log of one family lies. Make with `release_log`."""

    path: Path
    family: str

    @property
    def head_path(self) -> Path:
        return self.path.with_suffix(".head")


@dataclass(frozen=True)
class History:
    """All lines that hold together, what does not hold, and what is only worth knowing."""

    entries: tuple[Logged, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def head(self) -> str | None:
        return self.entries[-1].digest if self.entries else None


def release_log(data: Path, family: str) -> ReleaseLog:
    """The log of a family in a data folder (`.dutchdoor`); it need not exist yet."""
    return ReleaseLog(data / "release-log" / f"{family}.jsonl", family)


def append(
    log: ReleaseLog, kind: Kind, subject: str, signer: SigningKey, *, name: str | None = None
) -> Logged:
    """Add one signed line and return it when it is durable.

    Blocks while another process appends. Raises EvidenceError when the log can't be written, or when its
    last line is none of ours: nothing is ever chained to what is broken.
    """
    try:
        log.path.parent.mkdir(parents=True, exist_ok=True)
        with log.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = _last_line(file.fileno(), log)
            logged = _next(log, last, kind, subject, signer, name)
            file.write(logged.line + b"\n")
            file.flush()
            os.fsync(file.fileno())
            write_atomically(log.head_path, f"{logged.digest} {logged.entry.sequence + 1}\n".encode())
    except OSError as error:
        raise EvidenceError(
            f"can't write the release log {log.path}: {error.strerror}",
            hint="--data names a folder you can write",
        ) from error
    return logged


def append_evidence(data: Path, evidence: Evidence, signer: SigningKey) -> Logged:
    """The line of evidence that was just stored."""
    of, suite = evidence.subject, evidence.conditions.suite
    log = release_log(data, of.family)
    return append(log, "evidence", evidence.address, signer, name=f"{of.member}/{of.variant} {suite}")


def _last_line(handle: int, log: ReleaseLog) -> bytes | None:
    """The last whole line; half a line after it is cut off. Null for an empty log."""
    size = os.fstat(handle).st_size
    tail = os.pread(handle, LARGEST_LINE, max(0, size - LARGEST_LINE))
    whole = tail[: tail.rfind(b"\n") + 1]
    if size > len(tail) and not whole:
        raise EvidenceError(
            f"{log.path} is no release log", hint="move it away; `policy log` shows what is wrong"
        )
    if len(whole) < len(tail):
        os.ftruncate(handle, size - (len(tail) - len(whole)))
    lines = whole.splitlines()
    return lines[-1] if lines else None


def _next(
    log: ReleaseLog, last: bytes | None, kind: Kind, subject: str, signer: SigningKey, name: str | None
) -> Logged:
    sequence = 0 if last is None else _entry(last, log.path).sequence + 1
    entry = Entry(
        family=log.family,
        sequence=sequence,
        previous=None if last is None else digest_bytes(last),
        kind=kind,
        subject=subject,
        name=None if name is None else name[:LONGEST_NAME],
        at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    line = dsse.sign(canonical_json(entry), PAYLOAD_TYPE, signer)
    return Logged(entry, signer.key_id, verified=True, trusted=True, line=line)


def _entry(line: bytes, path: Path) -> Entry:
    try:
        return msgspec.json.decode(dsse.opened(line)[0], type=Entry)
    except (EvidenceError, msgspec.MsgspecError, RecursionError) as error:
        raise EvidenceError(
            f"the last line of {path} is none of a release log: {error}",
            hint="`dutchdoor policy log` shows what is wrong; restore it from a backup",
        ) from error


def parse(line: bytes, trusted: Sequence[PublicKey], known: Sequence[PublicKey] = ()) -> Logged:
    """One line, its signature checked where the key is at hand. Raises EvidenceError for what is none."""
    checked = dsse.check(line, trusted, known=known, payload_type=PAYLOAD_TYPE)
    try:
        entry = msgspec.json.decode(checked.payload, type=Entry)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise EvidenceError(f"no entry of a release log: {error}") from error
    return Logged(entry, checked.key_id, checked.verified, checked.trusted, line)


def read(log: ReleaseLog, trusted: Sequence[PublicKey]) -> History:
    """The whole log, checked line by line. A log that does not exist is empty.

    Raises EvidenceError when it can't be read.
    """
    try:
        data = log.path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise EvidenceError(f"can't read the release log {log.path}: {error.strerror}") from error
    whole = data[: data.rfind(b"\n") + 1]
    notes = (
        ["half a last line, of an append that was interrupted, does not count"]
        if len(whole) < len(data)
        else []
    )
    entries: list[Logged] = []
    faults = list(_chained(whole.splitlines(), log, trusted, entries))
    faults += _headed(log, entries)
    return History(tuple(entries), tuple(faults), tuple(notes))


def _chained(
    lines: Sequence[bytes], log: ReleaseLog, trusted: Sequence[PublicKey], entries: list[Logged]
) -> Iterator[str]:
    """Faults line by line; what could be read is put into `entries`."""
    previous: str | None = None
    for index, line in enumerate(lines):
        where = f"line {index + 1}"
        try:
            logged = parse(line, trusted)
        except EvidenceError as error:
            yield f"{where} does not hold: {error.message}"
            previous = digest_bytes(line)
            continue
        entry = logged.entry
        if entry.previous != previous:
            yield f"{where} does not follow the line before it: one was edited, removed or swapped"
        if entry.sequence != index:
            yield f"{where} says that it is line {entry.sequence + 1}"
        if entry.family != log.family:
            yield f"{where} is of the family {entry.family!r}"
        entries.append(logged)
        previous = logged.digest


def _headed(log: ReleaseLog, entries: Sequence[Logged]) -> Iterator[str]:
    """The head that the last append noted must be in the log; a log may be one append ahead of it."""
    head = None
    with contextlib.suppress(OSError):
        head = log.head_path.read_text("utf-8", errors="replace").split(" ")[0].strip()
    if head is None and len(entries) > 1:
        yield f"{log.head_path.name} is missing: nothing shows that the log ends where it ended"
    if head is not None and head not in [each.digest for each in entries[-2:]]:
        yield "the log does not end where its last append did: lines at its end were edited or removed"
