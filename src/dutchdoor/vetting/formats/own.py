"""Outcomes that somebody wrote as JSON Lines in a form of their own; a mapping says which field is what."""

from collections.abc import Mapping
from pathlib import Path

from dutchdoor.core import DocumentError, digest_file
from dutchdoor.vetting.formats.lines import each_line
from dutchdoor.vetting.formats.log import Log, Sample, dig, lies_at

TOOL = "jsonl"


def read_own(path: Path, paths: Mapping[str, str]) -> Log:
    """A line is one case. `paths`: where `id`, `input`, `epoch`, `answer` and each score lie in it.

    Raises DocumentError for a line without the field that names its case, or with a score that is not there
    (a score that could not be made is null).
    """
    samples = tuple(_sample(where, row, paths) for where, row in each_line(path))
    return Log(tool=TOOL, version=None, digest=digest_file(path), samples=samples)


def _sample(where: str, row: dict[str, object], paths: Mapping[str, str]) -> Sample:
    id_ = dig(row, paths.get("id", "id"))
    question = dig(row, paths.get("input", "input"))
    if id_ is None and question is None:
        raise DocumentError(f"{where}: nothing names the case", hint="--map id=FIELD or --map input=FIELD")
    epoch = dig(row, paths.get("epoch", "epoch"))
    answer = dig(row, paths.get("answer", "answer"))
    scores = {}
    for what in ("correct", "refused"):
        if what in paths:
            name = paths[what].removeprefix("!")
            if not lies_at(row, name):
                raise DocumentError(f"{where}: there is no field {name!r}", hint="null: it was not scored")
            scores[name] = dig(row, name)
    return Sample(
        where=where,
        id=None if id_ is None else str(id_),
        input=None if question is None else str(question),
        epoch=epoch if isinstance(epoch, int) else 1,
        scores=scores,
        answer=answer if isinstance(answer, str) else None,
    )
