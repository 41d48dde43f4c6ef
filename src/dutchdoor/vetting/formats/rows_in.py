"""CSV or JSON Lines with columns of its own, into the cases of a suite: a mapping says which is what."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError
from dutchdoor.vetting.formats.lines import each_row
from dutchdoor.vetting.formats.log import dig
from dutchdoor.vetting.suites import Case

MAPPED = ("id", "prompt", "target", "choices", "cluster", "max_tokens")


def read_rows(path: Path, scorer: str, columns: Mapping[str, str]) -> Iterator[Case]:
    """A case a row. `columns`: which column is `id`, `prompt`, `target` …; without, those of the same name.

    Without a column for ids they are the numbers of the rows. Raises DocumentError, naming file and line.
    """
    for number, (where, row) in enumerate(each_row(path), start=1):
        for what, name in columns.items():
            if dig(row, name) is None:
                raise DocumentError(f"{where}: there is no {name!r}, which was mapped to {what}")
        found = {what: dig(row, columns.get(what, what)) for what in MAPPED}
        given: dict[str, Any] = {what: value for what, value in found.items() if value not in (None, "")}
        given["id"] = str(given.get("id", number))
        if isinstance(given.get("choices"), str):  # a cell of a CSV file
            given["choices"] = [each.strip() for each in given["choices"].split("|")]
        try:
            yield msgspec.convert({**given, "scorer": scorer}, Case, strict=path.suffix != ".csv")
        except msgspec.ValidationError as error:
            raise DocumentError(f"{where}: {error}") from error
