"""Data sets as people have them on disk, into the cases of a suite.

Each reader knows the columns of one public format, as published; a row without them is an error with its
line. Nothing is fetched. What our scorers can't judge is an error, or left out and counted if asked.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError, canonical_json
from dutchdoor.vetting.formats.lines import each_row
from dutchdoor.vetting.suites import Case, Header, Suite, parse_suite

LETTERS = "ABCDEFGHIJ"
Row = dict[str, Any]
Reader = Callable[[Path], Iterator[Case | str]]


class CasesIn(msgspec.Struct, frozen=True, kw_only=True):
    """The suite's file, and in words what was left out of it."""

    data: bytes
    suite: Suite
    left_out: tuple[str, ...]


def make_suite(cases: Iterator[Case | str], header: Header, name: str) -> CasesIn:
    """A suite's file of these cases; a text in their place is the reason why one was left out.

    Raises DocumentError where a case can't be judged, an id comes twice, or nothing is left.
    """
    kept: list[Case] = []
    left_out: list[str] = []
    for each in cases:
        if isinstance(each, str):
            left_out.append(each)
        else:
            kept.append(each)
    if not kept:
        raise DocumentError(f"{name}: no case could be made of it", hint=left_out[0] if left_out else None)
    rows = [_without_defaults(header) | {"kind": header.kind}, *map(_without_defaults, kept)]
    data = b"".join(canonical_json(row) + b"\n" for row in rows)
    return CasesIn(data=data, suite=parse_suite(data, name), left_out=tuple(left_out))


def _without_defaults(value: msgspec.Struct) -> Row:
    fields = msgspec.structs.fields(value)
    return {f.name: v for f in fields if (v := getattr(value, f.name)) != f.default}


def _take(row: Row, name: str, where: str) -> str:
    value = row.get(name)
    if value is None or not str(value).strip():
        known = ", ".join(map(str, row)) or "nothing"
        raise DocumentError(f"{where}: there is no {name!r}", hint=f"the row has {known}")
    return str(value)


def xstest(path: Path) -> Iterator[Case]:
    """XSTest (Röttger et al. 2024): id, prompt, type, focus; only the safe half, for over-refusal."""
    for where, row in each_row(path):
        label = str(
            row.get("label") or ("unsafe" if _take(row, "type", where).startswith("contrast") else "safe")
        )
        if label == "safe":
            yield Case(id=_take(row, "id", where), prompt=_take(row, "prompt", where), scorer="refusal",
                       cluster=row.get("focus") or None)  # fmt: skip


def simple_safety_tests(path: Path) -> Iterator[Case]:
    """SimpleSafetyTests (Vidgen et al. 2023): id, harm_area, prompt."""
    for where, row in each_row(path):
        yield Case(id=_take(row, "id", where), prompt=_take(row, "prompt", where), scorer="refusal")


def harmbench(path: Path) -> Iterator[Case]:
    """HarmBench (Mazeika et al. 2024), text behaviours: BehaviorID, Behavior, ContextString."""
    for where, row in each_row(path):
        context, asked = row.get("ContextString"), _take(row, "Behavior", where)
        prompt = f"{context}\n\n---\n\n{asked}" if context else asked
        yield Case(id=_take(row, "BehaviorID", where), prompt=prompt, scorer="refusal")


def strongreject(path: Path) -> Iterator[Case]:
    """StrongREJECT (Souly et al. 2024): category, source, forbidden_prompt; ids are the numbers of the rows."""
    for number, (where, row) in enumerate(each_row(path), start=1):
        yield Case(id=f"sr-{number}", prompt=_take(row, "forbidden_prompt", where), scorer="refusal")


def wmdp(path: Path) -> Iterator[Case]:
    """WMDP (Li et al. 2024): question, choices, answer (an index); ids are the numbers of the rows."""
    for number, (where, row) in enumerate(each_row(path), start=1):
        choices, answer = row.get("choices"), row.get("answer")
        sound = isinstance(choices, list) and 2 <= len(choices) <= len(LETTERS)
        if not sound or not isinstance(answer, int) or not 0 <= answer < len(choices or ()):
            raise DocumentError(f"{where}: choices is no list, or answer is no index of it")
        yield choice_case(
            f"wmdp-{number}", _take(row, "question", where), list(map(str, choices or ())), answer
        )


def choice_case(id: str, question: str, choices: list[str], answer: int) -> Case:
    """A question with lettered choices, answered by a letter."""
    letters = tuple(LETTERS[: len(choices)])
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, choices, strict=True))
    prompt = f"{question}\n\n{listed}\n\nAnswer with the letter only."
    return Case(id=id, prompt=prompt, scorer="choice", target=letters[answer], choices=letters, max_tokens=16)


def gsm8k(path: Path) -> Iterator[Case]:
    """GSM8K (Cobbe et al. 2021): question, answer that ends in `#### NUMBER`."""
    for number, (where, row) in enumerate(each_row(path), start=1):
        _, mark, result = _take(row, "answer", where).rpartition("####")
        if not mark:
            raise DocumentError(f"{where}: answer does not end in `#### NUMBER`")
        yield Case(id=f"gsm8k-{number}", prompt=_take(row, "question", where), scorer="numeric",
                   target=result.strip().replace(",", ""), max_tokens=512)  # fmt: skip


def humaneval(path: Path) -> Iterator[Case | str]:
    """HumanEval (Chen et al. 2021): task_id, prompt, entry_point, test.

    Its tests become calls with stated results, because results never enter the sandbox; a task with a test
    of another form is a reason instead of a case.
    """
    for where, row in each_row(path):
        name, function = _take(row, "task_id", where), _take(row, "entry_point", where)
        tests = _asserted(_take(row, "test", where))
        if tests is None:
            yield f"{where}: {name} has a test that is not `assert candidate(…) == VALUE` of plain values"
            continue
        asked = "Complete this Python function. Answer with the whole function.\n\n"
        yield Case(id=name, prompt=f"{asked}```python\n{_take(row, 'prompt', where)}```", scorer="code",
                   target={"function": function, "tests": tests}, max_tokens=512)  # fmt: skip


def _asserted(source: str) -> list[list[Any]] | None:
    """The calls and results of `check(candidate)`; null when anything in it is of another form."""
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    check = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    tests: list[list[Any]] = []
    for statement in check.body if check else ():
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        test = _call(statement.test) if isinstance(statement, ast.Assert) else None
        if test is None:
            if isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Constant):
                continue  # `assert True` says nothing
            return None
        tests.append(test)
    return tests or None


def _call(test: ast.expr) -> list[Any] | None:
    expected: Any = True
    call: ast.expr = test
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        call = test.left
        try:
            expected = ast.literal_eval(test.comparators[0])
        except ValueError:
            return None
    plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "candidate"
    if not plain or not isinstance(call, ast.Call) or call.keywords:
        return None
    try:
        arguments = [ast.literal_eval(each) for each in call.args]
        again = msgspec.json.decode(msgspec.json.encode([arguments, expected]))
    except (ValueError, TypeError, msgspec.MsgspecError):
        return None
    same: bool = again == [
        arguments,
        expected,
    ]  # a tuple, or a key that is no text, would come back as another
    return [arguments, expected] if same else None


def bbh(path: Path) -> Iterator[Case]:
    """BIG-Bench Hard (Suzgun et al. 2022): one JSON file a task, `{"examples": [{"input", "target"}]}`."""
    try:
        rows = msgspec.json.decode(path.read_bytes())["examples"]
        examples = [(str(row["input"]), str(row["target"])) for row in rows]
    except (OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise DocumentError(
            f"{path}: {error}", hint='expected {"examples": [{"input", "target"}]}'
        ) from error
    targets = tuple(dict.fromkeys(target for _, target in examples))
    for number, (asked, target) in enumerate(examples, start=1):
        options = tuple(dict.fromkeys(re.findall(r"^\([A-Z]\)", asked, re.MULTILINE)))
        few = options if target in options else targets if 2 <= len(targets) <= len(LETTERS) else ()
        yield Case(id=f"{path.stem}-{number}", prompt=asked, scorer="choice" if few else "exact",
                   target=target, choices=few, cluster=None)  # fmt: skip


READERS: dict[str, Reader] = {
    "xstest": xstest,
    "simplesafetytests": simple_safety_tests,
    "harmbench": harmbench,
    "strongreject": strongreject,
    "wmdp": wmdp,
    "gsm8k": gsm8k,
    "humaneval": humaneval,
    "bbh": bbh,
}
