"""A task of lm-eval (YAML) whose data lie on disk, into the cases of a suite.

The part of the form that is understood: `dataset_path: json|csv` with local `data_files`, one split, one
question a document, `doc_to_text`, `doc_to_target` and `doc_to_choice` as names of fields or jinja2
templates. Anything that could change what is asked or what is right is an error that names the field.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dutchdoor.core import DocumentError, MissingExtraError
from dutchdoor.vetting.formats.lines import each_row
from dutchdoor.vetting.formats.suites_in import choice_case
from dutchdoor.vetting.suites import DEFAULT_MAX_TOKENS, Case

_KNOWN = {
    "task", "dataset_path", "dataset_kwargs", "test_split", "output_type", "doc_to_text", "doc_to_target",
    "doc_to_choice", "generation_kwargs", "metric_list", "description", "metadata", "tag", "num_fewshot",
    "repeats", "target_delimiter", "fewshot_delimiter",
}  # fmt: skip
_LOCAL = ("json", "csv")
_METRICS = {"generate_until": {"exact_match"}, "multiple_choice": {"acc", "acc_norm"}}
Task = dict[str, Any]


def read_task(path: Path) -> Iterator[Case]:
    """The cases of a task. Raises DocumentError for a field that is not understood, naming it."""
    task = _task(path)
    kind = task.get("output_type", "generate_until")
    _check(path, task, kind)
    name = str(task["task"])
    for number, (where, row) in enumerate(each_row(_data(path, task)), start=1):
        id = str(row.get("id", f"{name}-{number}"))
        asked = str(task.get("description", "")) + str(_made(task["doc_to_text"], row, where, "doc_to_text"))
        target = _made(task["doc_to_target"], row, where, "doc_to_target")
        if kind == "multiple_choice":
            choices = task["doc_to_choice"]
            if not isinstance(choices, list):
                choices = _made(choices, row, where, "doc_to_choice")
            yield _choice(id, asked, choices, target, where)
        else:
            most = (task.get("generation_kwargs") or {}).get("max_gen_toks", DEFAULT_MAX_TOKENS)
            yield Case(id=id, prompt=asked, scorer="exact", target=str(target), max_tokens=int(most))


def _task(path: Path) -> Task:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        task = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, RecursionError) as error:
        raise DocumentError(f"{path}: {error}", hint="tags such as !function are not understood") from error
    if not isinstance(task, dict):
        raise DocumentError(f"{path} is no task of lm-eval")
    return task


def _check(path: Path, task: Task, kind: str) -> None:
    unknown = sorted(map(str, task.keys() - _KNOWN))
    if unknown:
        raise DocumentError(
            f"{path}: the field {unknown[0]!r} is not understood", hint="write the suite by hand"
        )
    needed = ["task", "dataset_path", "test_split", "doc_to_text", "doc_to_target"]
    for name in [*needed, *(["doc_to_choice"] if kind == "multiple_choice" else [])]:
        if name not in task:
            raise DocumentError(f"{path}: there is no {name!r}")
    for name, allowed in (("output_type", tuple(_METRICS)), ("num_fewshot", (0,)), ("repeats", (1,))):
        if name in task and task[name] not in allowed:
            raise DocumentError(
                f"{path}: {name}: {task[name]!r} is not understood", hint=f"understood: {allowed}"
            )
    for each in task.get("metric_list") or ():
        if not isinstance(each, dict) or each.get("metric") not in _METRICS[kind]:
            raise DocumentError(f"{path}: metric_list: {each!r} is not understood", hint=f"{_METRICS[kind]}")
        if each.keys() - {"metric", "aggregation", "higher_is_better"}:
            raise DocumentError(f"{path}: metric_list: options of {each['metric']} are not understood")


def _data(path: Path, task: Task) -> Path:
    """The file of the test split, relative to the task's. Nothing is fetched."""
    if task["dataset_path"] not in _LOCAL:
        raise DocumentError(
            f"{path}: dataset_path: {task['dataset_path']!r} is no local data set",
            hint="nothing is fetched here: save it as JSON Lines, dataset_path: json, and name it in data_files",
        )
    settings = task.get("dataset_kwargs") or {}
    files = settings.get("data_files") if isinstance(settings, dict) else None
    if not isinstance(files, dict) or not isinstance(files.get(task["test_split"]), str) or len(settings) > 1:
        raise DocumentError(
            f"{path}: dataset_kwargs: expected data_files with the file of {task['test_split']}"
        )
    return path.parent / str(files[task["test_split"]])


def _made(template: Any, row: dict[str, Any], where: str, what: str) -> Any:
    """A field of the document by its name, else a template with the document filled in."""
    if not isinstance(template, str):
        raise DocumentError(f"{where}: {what}: {template!r} is neither a field nor a template")
    if template in row:
        return row[template]
    if "{" not in template:
        raise DocumentError(f"{where}: {what}: the document has no field {template!r}")
    try:
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise MissingExtraError("a task with templates", extra="local") from None
    room = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        made = room.from_string(template).render(**row)
    except (TemplateError, TypeError, ValueError) as error:
        raise DocumentError(f"{where}: {what}: {error}") from error
    return int(made) if made.isdigit() and what == "doc_to_target" else made  # an index, as lm-eval takes it


def _choice(id: str, asked: str, choices: Any, target: Any, where: str) -> Case:
    texts = [str(each) for each in choices] if isinstance(choices, list) else []
    at = target if isinstance(target, int) else texts.index(target) if target in texts else -1
    if not 0 <= at < len(texts):
        raise DocumentError(f"{where}: doc_to_target: {target!r} is none of the choices")
    return choice_case(id, asked, texts, at)
