"""Scores that some other tool made: lines of `{"id", "harmful": 0|1|null, …}`, and people's labels for a judge.

Reads them in one pass, item by item, and refuses by file and line whatever is no such line. Signs nothing, keeps
nothing and judges nothing: `dutchdoor.policy.gate` does that.
"""

import contextlib
import gzip
import io
import json
import os
import sys
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

import msgspec

from dutchdoor.core import EvidenceError

Side = Literal["candidate", "baseline"]

STDIN = Path("-")
LONGEST = 16 << 20  # bytes of a line; long transcripts have some 100 kB
SHOWN = 60  # characters of a bad value that are shown
MISSING = 2  # in `Scores.scores`, where 0 and 1 are scores
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SCORE_HINT = "write 0, 1, true, false, or null for an item that could not be scored"


@dataclass(frozen=True)
class Scores:
    """The scores of one side, by id and in the order of the file."""

    name: str  # the file's, for messages
    index: dict[str, int] = field(default_factory=dict, repr=False)
    scores: bytearray = field(default_factory=bytearray, repr=False)  # 0, 1 or MISSING
    lines: "array[int]" = field(default_factory=lambda: array("Q"), repr=False)
    clusters: list[str | None] | None = field(
        default=None, repr=False
    )  # null: no cluster field was asked for

    def __len__(self) -> int:
        return len(self.index)

    def score(self, id: str) -> bool | None:
        """Null when the item is not there or could not be scored."""
        at = self.index.get(id)
        return None if at is None or self.scores[at] == MISSING else self.scores[at] == 1

    def cluster(self, id: str) -> str | None:
        """What the item shares with others; null: it stands alone."""
        return None if self.clusters is None else self.clusters[self.index[id]]

    def place(self, id: str) -> str:
        """`FILE:LINE` of an item."""
        return f"{self.name}:{self.lines[self.index[id]]}"


@dataclass(frozen=True)
class Label:
    """What people say of one item of one side: the truth that a judge is held against."""

    id: str
    side: Side
    gold: bool
    place: str  # FILE:LINE


def read_scores(path: Path, *, measure: str, cluster: str | None = None) -> Scores:
    """The scores of a JSONL file, gzipped or not; `-` is stdin.

    A number as an id is read as its digits: 7 and "7" are the same item. Other fields are ignored.
    Raises EvidenceError, `FILE:LINE: FIELD: what is wrong`, with the remedy as hint.
    """
    found = Scores(shown_name(path), clusters=None if cluster is None else [])
    known: dict[str, str] = {}  # one string a cluster, however many items it has
    fields = ["id", measure] if cluster is None else ["id", measure, cluster]
    for number, values in _rows(path, fields):
        place = f"{found.name}:{number}"
        id = _id(values[0], place)
        score = _score(values[1], f"{place}: {measure}")
        if found.index.setdefault(id, len(found.index)) != len(found.lines):
            raise EvidenceError(
                f"{place}: id: {_short(id)} is there twice, first in line {found.lines[found.index[id]]}",
                hint="give each item one line: one that counts twice weighs twice",
            )
        found.scores.append(MISSING if score is None else score)
        found.lines.append(number)
        if found.clusters is not None:
            name = _cluster(values[2], f"{place}: {cluster}")
            found.clusters.append(None if name is None else known.setdefault(name, name))
    return found


def read_labels(path: Path) -> list[Label]:
    """The lines `{"id", "side": "candidate"|"baseline", "gold": 0|1}` of a JSONL file; `-` is stdin.

    Raises EvidenceError, `FILE:LINE: FIELD: what is wrong`, with the remedy as hint.
    """
    name = shown_name(path)
    found: dict[tuple[str, str], Label] = {}
    for number, (raw_id, side, raw_gold) in _rows(path, ["id", "side", "gold"]):
        place = f"{name}:{number}"
        id = _id(raw_id, place)
        if side not in ("candidate", "baseline"):
            raise _bad(f"{place}: side", "expected candidate or baseline", side, "name whose answer it is")
        gold = _score(raw_gold, f"{place}: gold")
        if gold is None:
            raise EvidenceError(
                f"{place}: gold: there is no label", hint="leave the line out, or label it 0 or 1"
            )
        if (id, side) in found:
            first = found[id, side].place
            raise EvidenceError(
                f"{place}: id: {_short(id)} is labelled twice, first in {first}", hint="keep one"
            )
        found[id, side] = Label(id, cast(Side, side), gold, place)
    return list(found.values())


def shown_name(path: Path) -> str:
    """How messages name a file; bytes that are no UTF-8 are replaced, since JSON could not hold them."""
    return "stdin" if path == STDIN else os.fsencode(path).decode(errors="replace")


def _rows(path: Path, fields: list[str]) -> Iterator[tuple[int, list[Any]]]:
    """The line number and the fields' values of each line that is not empty."""
    name = shown_name(path)
    columns = [f"field{i}" for i in range(len(fields))]
    row = msgspec.defstruct(
        "Row",
        [(column, Any, msgspec.UNSET) for column in columns],
        rename=dict(zip(columns, fields, strict=True)),
    )
    decoder = msgspec.json.Decoder(row)
    quoted = [json.dumps(each, ensure_ascii=False).encode() for each in fields]
    for number, line in _lines(path, name):
        if any(line.count(each) > 1 for each in quoted) or b"\\u" in line or b"\\/" in line:
            _refuse_twice(line, fields, f"{name}:{number}")
        try:
            decoded = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _malformed(line, error, f"{name}:{number}") from error
        values = [getattr(decoded, column) for column in columns]
        for asked, value in zip(fields, values, strict=True):
            if value is msgspec.UNSET:
                raise EvidenceError(
                    f"{name}:{number}: {asked}: the field is not there", hint=_absent(asked, fields)
                )
        yield number, values


def _lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, numbered from 1."""
    try:
        with _opened(path) as file:
            number = 0
            while line := file.readline(LONGEST + 1):
                number += 1
                if number == 1:
                    if line.startswith(_UTF16):
                        raise EvidenceError(f"{name}: is UTF-16", hint="save it as UTF-8")
                    line = line.removeprefix(_BOM)
                if len(line) > LONGEST:
                    raise EvidenceError(
                        f"{name}:{number}: longer than {LONGEST >> 20} MiB",
                        hint="one item a line: is it JSONL?",
                    )
                if line.strip():
                    yield number, line
    except IsADirectoryError as error:
        raise EvidenceError(f"{name}: is a folder", hint="name a JSONL file in it") from error
    except FileNotFoundError as error:
        raise EvidenceError(
            f"{name}: there is no such file", hint="name a JSONL file, or - for stdin"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise EvidenceError(
            f"{name}: is no whole gzip file: {error}", hint="fetch or write it again"
        ) from error
    except OSError as error:
        raise EvidenceError(
            f"{name}: can't be read: {error.strerror or error}", hint="check the path and its rights"
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if path == STDIN else stack.enter_context(path.open("rb"))
        raw = cast(io.BufferedReader, file)
        if raw.peek(2)[:2] == _GZIP:  # told by its first bytes, so that stdin may be gzipped too
            yield cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=raw)))
        else:
            yield raw


def _refuse_twice(line: bytes, fields: list[str], place: str) -> None:
    """A field that is there twice: readers differ about which one counts, so that none does here."""
    try:
        pairs = json.loads(line, object_pairs_hook=lambda found: found)  # the outermost object comes last
    except (ValueError, RecursionError):
        return  # the decoder says it better
    names = [pair[0] for pair in pairs] if isinstance(pairs, list) and line.lstrip()[:1] == b"{" else []
    for each in fields:
        if names.count(each) > 1:
            raise EvidenceError(f"{place}: {each}: the field is there twice", hint="keep one")


def _absent(asked: str, fields: list[str]) -> str:
    if len(fields) == 3 and asked == fields[2] and fields[2] != "gold":
        return "--cluster names a field that each line has; write null for an item that shares nothing"
    if asked == fields[1] and fields[1] != "side":
        return f'write "{asked}": 0, 1 or null; --measure names another field'
    return (
        'a line is {"id": …, "side": "candidate"|"baseline", "gold": 0|1}'
        if "gold" in fields
        else "name each item"
    )


def _malformed(line: bytes, error: Exception, place: str) -> EvidenceError:
    hint = 'each line is one JSON object: {"id": "a-1", "harmful": 0}'
    if isinstance(error, UnicodeDecodeError):
        return EvidenceError(f"{place}: is not UTF-8", hint="save the file as UTF-8")
    if isinstance(error, RecursionError):
        return EvidenceError(f"{place}: is nested too deeply", hint=hint)
    if line.lstrip()[:1] == b"[":
        return EvidenceError(f"{place}: is a list", hint="one object a line, without the list around them")
    if b"NaN" in line or b"Infinity" in line:
        return EvidenceError(f"{place}: is no JSON: NaN and Infinity are no values", hint=_SCORE_HINT)
    if isinstance(error, msgspec.ValidationError):
        return EvidenceError(f"{place}: {str(error)[:1].lower()}{str(error)[1:]}", hint=hint)
    return EvidenceError(f"{place}: is no JSON: {error}", hint=hint)


def _id(value: Any, place: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _bad(
        f"{place}: id", "expected a text that is not empty, or a whole number", value, "name each item"
    )


def _score(value: Any, where: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return value == 1
    # 1.0 too: a float says that something was averaged or converted on its way here, and -0.0 is no score
    raise _bad(where, "expected 0, 1 or null", value, _SCORE_HINT)


def _cluster(value: Any, where: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    hint = "items of one source share a text; write null for an item that shares nothing"
    raise _bad(where, "expected a text that is not empty, a whole number or null", value, hint)


def _bad(where: str, expected: str, value: Any, hint: str) -> EvidenceError:
    return EvidenceError(f"{where}: {expected}, not {_short(value)}", hint=hint)


def _short(value: Any) -> str:
    """A value as JSON writes it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
