"""Logs of Inspect (inspect_ai), `.eval` and `.json`, read without inspect_ai.

The format: inspect_ai.log.EvalLog, version 2. A `.eval` file is a zip with `header.json` and one file a
sample. Events and attachments of the samples are skipped, not kept.
"""

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dutchdoor.core import DocumentError, digest_file
from dutchdoor.vetting.formats.archive import Archive
from dutchdoor.vetting.formats.log import Log, Sample, flat
from dutchdoor.vetting.formats.moment import moment

T = TypeVar("T")
TOOL = "inspect_ai"
VERSION = 2  # of the format
LARGEST_JSON = 4 << 30  # bytes
JOURNAL = "_journal/start.json"  # where a run that broke off has its header
_ATTACHED = "attachment://"
_KIND = re.compile(r"[A-Za-z_][\w.]{0,60}(?:Error|Exception|Timeout|Interrupt)\b")


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[dict[str, Any]] = ""


class _Score(msgspec.Struct):
    value: Any = None


class _Output(msgspec.Struct):
    completion: str | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Sample(msgspec.Struct):
    id: int | str
    input: str | list[_Message]
    epoch: int = 1
    scores: dict[str, _Score] | None = None
    output: _Output | None = None
    error: _Error | None = None
    invalidation: Any = None
    attachments: dict[str, str] = {}


class _Settings(msgspec.Struct):
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


class _Eval(msgspec.Struct):
    created: str | None = None
    task: str = ""
    model: str | None = None
    model_generate_config: _Settings = msgspec.field(default_factory=_Settings)
    packages: dict[str, str] = {}


class _Plan(msgspec.Struct):
    config: _Settings = msgspec.field(default_factory=_Settings)


class _Stats(msgspec.Struct):
    completed_at: str | None = None


class _Header(msgspec.Struct):
    version: int
    eval: _Eval
    status: str = "started"
    plan: _Plan = msgspec.field(default_factory=_Plan)
    stats: _Stats = msgspec.field(default_factory=_Stats)
    invalidated: bool = False


class _Whole(_Header):
    samples: list[_Sample] | None = None


def read_inspect(path: Path) -> Log:
    """A log of Inspect. Raises DocumentError when it is none, broken, or marked as invalid there."""
    if path.suffix == ".json":
        if path.stat().st_size > LARGEST_JSON:
            raise DocumentError(f"{path} is larger than {LARGEST_JSON} bytes", hint="import the .eval file")
        whole = _decode(path.read_bytes(), _Whole, str(path))
        header: _Header = whole
        samples = [_sample(each, str(path)) for each in whole.samples or ()]
    else:
        header, samples = _from_archive(path)
    if header.version != VERSION:
        raise DocumentError(f"{path}: log format {header.version} is unknown", hint=f"known: {VERSION}")
    if header.invalidated:
        raise DocumentError(f"{path}: the log is marked as invalid", hint="run the evaluation again")
    return _log(path, header, samples)


def _from_archive(path: Path) -> tuple[_Header, list[Sample]]:
    with Archive(path) as archive:
        names = set(archive.names())
        name = "header.json" if "header.json" in names else JOURNAL
        header = _decode(archive.read(name), _Header, f"{path}, {name}")
        inside = sorted(each for each in names if each.startswith("samples/") and each.endswith(".json"))
        where = {each: f"{path}, {each}" for each in inside}
        samples = [_sample(_decode(archive.read(each), _Sample, where[each]), str(path)) for each in inside]
    return header, samples


def _log(path: Path, header: _Header, samples: list[Sample]) -> Log:
    given, planned = header.eval.model_generate_config, header.plan.config
    settings = {
        name: next((v for v in (getattr(given, name), getattr(planned, name)) if v is not None), None)
        for name in ("temperature", "top_p", "max_tokens", "seed")
    }
    done = header.status == "success"
    return Log(
        tool=TOOL,
        version=header.eval.packages.get(TOOL),
        digest=digest_file(path),
        samples=tuple(samples),
        model=header.eval.model,
        made_at=moment(header.stats.completed_at or header.eval.created),
        notes=() if done else (f"the run did not end well: its status is {header.status}",),
        **settings,
    )


def _sample(found: _Sample, file: str) -> Sample:
    where = f"{file}, sample {found.id} epoch {found.epoch}"
    error = None
    if found.error is not None:
        kind = _KIND.match(found.error.message)  # the rest may hold texts of the case
        error = kind.group() if kind else "an error in the log"
    elif found.invalidation is not None:
        error = "marked as invalid in the log"
    scores = {name: score.value for name, score in (found.scores or {}).items()}
    return Sample(
        where=where,
        id=str(found.id),
        input=_text(found.input, found.attachments),
        epoch=found.epoch,
        scores=flat(scores),
        answer=None if found.output is None else found.output.completion,
        error=error,
    )


def _text(given: str | list[_Message], attachments: dict[str, str]) -> str:
    """The question as one text: the one user message, or all messages with their roles."""
    if isinstance(given, str):
        return _resolved(given, attachments)
    texts = [(each.role, _resolved(_parts(each.content), attachments)) for each in given]
    if len(texts) == 1:
        return texts[0][1]
    return "\n".join(f"{role}: {text}" for role, text in texts)


def _parts(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if part.get("type") == "text")


def _resolved(text: str, attachments: dict[str, str]) -> str:
    return attachments.get(text.removeprefix(_ATTACHED), text) if text.startswith(_ATTACHED) else text


def _decode(data: bytes, type: type[T], where: str) -> T:
    try:
        return _parsed(data, type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(f"{where}: {error}", hint="is it an Inspect log?") from error


def _parsed(data: bytes, type: type[T]) -> T:
    """Inspect writes NaN, which is no JSON: a score that is NaN is none."""
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"NaN" not in data and b"Infinity" not in data:
            raise
    numbers = re.sub(rb"(?<=[:\[,\s])(?:NaN|-?Infinity)(?=\s*[,\]}])", b"null", data)
    return msgspec.json.decode(numbers, type=type)
