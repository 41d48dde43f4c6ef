"""Samples of the Language Model Evaluation Harness (lm-eval): `samples_TASK_DATE.jsonl` of `--log_samples`.

What the run was lies in `results_DATE.json` beside it; where that is not there, it is not known. Each line
is one document under one filter. Read without lm_eval.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError, digest_file
from dutchdoor.vetting.formats.lines import each_line
from dutchdoor.vetting.formats.log import Log, Sample, dig
from dutchdoor.vetting.formats.moment import moment

TOOL = "lm_eval"
_NAME = re.compile(r"^samples_.*_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl$")


class _Row(msgspec.Struct):
    doc: Any
    arguments: Any = None
    filtered_resps: Any = None
    filter: str = "none"
    metrics: list[str] = []


class _Results(msgspec.Struct):
    lm_eval_version: str | None = None
    model_name: str | None = None
    date: float | None = None  # seconds since 1970
    config: dict[str, Any] = {}


def read_lm_eval(path: Path, *, paths: Mapping[str, str], filter: str | None) -> Log:
    """Samples of lm-eval. `paths`: where `id` and `input` lie in a line (`doc.question`).

    Raises DocumentError when a line is none of lm-eval's, or has several filters and none was named.
    """
    rows: list[tuple[str, dict[str, Any], _Row]] = []
    for where, raw in each_line(path):
        try:
            row = msgspec.convert(raw, _Row)
        except msgspec.ValidationError as error:
            raise DocumentError(f"{where}: {error}", hint="is it a file of --log_samples?") from error
        rows.append((where, raw, row))
    filters = sorted({row.filter for *_, row in rows})
    if filter is not None and filter not in filters:
        raise DocumentError(f"{path}: no filter {filter!r}", hint=f"filters: {', '.join(filters)}")
    if filter is None and len(filters) > 1:
        raise DocumentError(
            f"{path} has several filters: {', '.join(filters)}", hint="--filter NAME says which counts"
        )
    chosen = [each for each in rows if filter is None or each[2].filter == filter]
    samples = tuple(_sample(where, raw, row, paths) for where, raw, row in chosen)
    return _log(path, samples)


def _sample(where: str, raw: dict[str, Any], row: _Row, paths: Mapping[str, str]) -> Sample:
    stated = dig(raw, paths.get("id", "doc.id"))
    question = dig(raw, paths["input"]) if "input" in paths else _prompt(row.arguments)
    answers = row.filtered_resps
    answer = answers[0] if isinstance(answers, list) and len(answers) == 1 else None
    return Sample(
        where=where,
        id=None if stated is None else str(stated),
        input=None if question is None else str(question),
        scores={name: raw.get(name) for name in row.metrics},
        answer=answer if isinstance(answer, str) else None,
    )


def _prompt(arguments: Any) -> str | None:
    """The prompt of the first request of a document: `arguments.gen_args_0.arg_0`, in older logs a list."""
    if isinstance(arguments, dict):
        first = arguments.get("gen_args_0")
        text = first.get("arg_0") if isinstance(first, dict) else None
    else:
        text = arguments[0][0] if isinstance(arguments, list) and arguments and arguments[0] else None
    return text if isinstance(text, str) else None


def _log(path: Path, samples: tuple[Sample, ...]) -> Log:
    found = _Results()
    notes: tuple[str, ...] = ()
    named = _NAME.match(path.name)
    beside = path.with_name(f"results_{named.group(1)}.json") if named else None
    if beside is not None and beside.is_file():
        try:
            found = msgspec.json.decode(beside.read_bytes(), type=_Results)
        except (OSError, msgspec.MsgspecError) as error:
            raise DocumentError(f"{beside}: {error}", hint="is it lm-eval's?") from error
    else:
        notes = ("there is no results file beside it, so what model and version ran is not known",)
    date = named.group(1) if named else None
    settings = found.config.get("gen_kwargs")
    stated = settings if isinstance(settings, dict) else {}
    return Log(
        tool=TOOL,
        version=found.lm_eval_version,
        digest=digest_file(path),
        samples=samples,
        model=found.model_name,
        made_at=None if date is None else moment(date[:10] + date[10:].replace("-", ":")),
        temperature=_float(stated.get("temperature")),
        top_p=_float(stated.get("top_p")),
        notes=notes,
    )


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
