"""Rows of a file: JSON Lines, or CSV with a heading, each with where it lies."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError

LARGEST_LINE = 64 << 20  # bytes


def each_line(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a JSONL file as a table, with `FILE:LINE`. Raises DocumentError for what is none."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LARGEST_LINE + 1), b""), start=1):
                if len(line) > LARGEST_LINE:
                    raise DocumentError(f"{path}:{number} is longer than {LARGEST_LINE} bytes")
                if line.strip():
                    yield f"{path}:{number}", _table(line, f"{path}:{number}")
    except OSError as error:
        raise DocumentError(f"can't read {path}: {error.strerror}") from error


def _table(line: bytes, where: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(f"{where}: {error}", hint="expected one JSON object a line") from error


def each_row(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a `.csv`, `.jsonl` or `.json` (one list of objects) file. Raises DocumentError."""
    if path.suffix == ".csv":
        yield from _csv(path)
    elif path.suffix == ".json":
        try:
            rows = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
        except OSError as error:
            raise DocumentError(f"can't read {path}: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DocumentError(f"{path}: {error}", hint="expected a list of objects") from error
        for number, row in enumerate(rows):
            yield f"{path}, item {number}", row
    else:
        yield from each_line(path)


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"can't read {path}: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if not reader.fieldnames or len(set(reader.fieldnames)) != len(reader.fieldnames):
        raise DocumentError(f"{path}: a CSV file begins with a line of column names, each once")
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise DocumentError(f"{where}: the row has not as many fields as there are columns")
            yield where, dict(row)
    except csv.Error as error:
        raise DocumentError(f"{path}:{reader.line_num}: {error}") from error
