"""Which reader a log needs, by its name and its first line."""

from collections.abc import Mapping
from pathlib import Path

from dutchdoor.core import DocumentError
from dutchdoor.vetting.formats.inspect_log import read_inspect
from dutchdoor.vetting.formats.lines import each_line
from dutchdoor.vetting.formats.lm_eval import read_lm_eval
from dutchdoor.vetting.formats.log import Log
from dutchdoor.vetting.formats.own import read_own

FORMATS = ("inspect", "lm-eval", "jsonl")
_OF_LM_EVAL = {"doc_id", "doc", "arguments", "filtered_resps"}


def read_log(
    path: Path, *, paths: Mapping[str, str], filter: str | None = None, format: str | None = None
) -> Log:
    """The log at `path`; `paths` says where what lies (see `own` and `lm_eval`). Raises DocumentError."""
    format = format or _format(path)
    if format != "lm-eval" and filter is not None:
        raise DocumentError(f"{path}: only logs of lm-eval have filters", hint="leave --filter out")
    if format == "inspect":
        if unknown := sorted(set(paths) - {"correct", "refused"}):
            raise DocumentError(
                f"an Inspect log says itself what is its {unknown[0]}", hint=f"leave --map {unknown[0]}=… out"
            )
        return read_inspect(path)
    if format == "lm-eval":
        return read_lm_eval(path, paths=paths, filter=filter)
    return read_own(path, paths)


def _format(path: Path) -> str:
    if not path.is_file():
        raise DocumentError(f"there is no file {path}")
    if path.suffix in (".eval", ".json"):
        return "inspect"
    first = next(each_line(path), None)
    return "lm-eval" if first is not None and first[1].keys() >= _OF_LM_EVAL else "jsonl"
