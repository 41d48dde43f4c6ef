"""From a format's name to its reader, and the header of the suite that is made."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import msgspec

from dutchdoor.core import DocumentError, UsageError
from dutchdoor.vetting.formats.lm_eval_task import read_task
from dutchdoor.vetting.formats.rows_in import MAPPED, read_rows
from dutchdoor.vetting.formats.suites_in import READERS
from dutchdoor.vetting.suites import Case, Header, ScorerName


def cases_of(
    path: Path, format: str, *, scorer: str | None, columns: Mapping[str, str]
) -> Iterator[Case | str]:
    """The cases in a file of this format. Raises UsageError for options that the format does not take."""
    if format.startswith("hf"):
        installed = importlib.util.find_spec("datasets") is not None
        raise UsageError(
            "data sets of Hugging Face are not read here",
            hint="save it with datasets: load_dataset(…).to_json(FILE), then --as rows"
            if installed
            else "pip install datasets, save it with load_dataset(…).to_json(FILE), then --as rows",
        )
    if format != "rows" and (scorer or columns):
        raise UsageError(f"--as {format} takes neither --scorer nor --map", hint="--as rows takes both")
    if format == "rows":
        if scorer is None or scorer not in get_args(ScorerName):
            raise UsageError("--as rows needs --scorer", hint=f"one of {', '.join(get_args(ScorerName))}")
        if unknown := sorted(columns.keys() - set(MAPPED)):
            raise UsageError(f"--map {unknown[0]}=… maps nothing", hint=f"one of {', '.join(MAPPED)}")
        return read_rows(path, scorer, columns)
    if format == "lm-eval-task":
        return read_task(path)
    if format not in READERS:
        known = ", ".join(("rows", "lm-eval-task", *READERS))
        raise UsageError(f"--as {format}: unknown format", hint=f"one of {known}")
    return READERS[format](path)


def header_of(path: Path | None) -> Header:
    """The header in a JSON file; an empty one for none. Raises DocumentError."""
    if path is None:
        return Header()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Header)
    except OSError as error:
        raise DocumentError(f"can't read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(f"{path}: {error}", hint="see docs/reference/suites.md") from error
