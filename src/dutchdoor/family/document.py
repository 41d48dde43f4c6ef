"""Our own files: strict YAML 1.2 into frozen types, with file, line and field of whatever is wrong.

Refuses what makes a file say something else than it seems to: duplicate and unknown fields, anchors and
aliases, merge keys, tags of its own, tabs, several documents, numbers that are not finite, bytes that are not
UTF-8.
"""

import datetime
import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from dutchdoor.core import DocumentError

T = TypeVar("T")

LARGEST = 1 << 20  # bytes; a manifest of a hundred members has some 50 kB
DEEPEST = 40  # nesting levels; ours have at most 7
LONGEST_INTEGER = 40  # characters; nothing is counted here that needs more
SHOWN = 60  # characters of a bad value that are shown

_TAG = "tag:yaml.org,2002:"
_AT = re.compile(r" - at `(?:key in )?`?\$?([^`]*)`$")
_DATE = re.compile(r"^\d{4}-\d{2}-\d{2}$")
_BOOLEANS = {"true": True, "false": False}
_NULLS = ("", "~", "null")


@dataclass(frozen=True)
class Document(Generic[T]):
    """A file that was read: its value, and the line of each field (`members[0].intent.download`)."""

    value: T
    name: str
    lines: dict[str, int] = field(repr=False)

    def fault(self, where: str, message: str, *, hint: str | None = None) -> DocumentError:
        """The error to raise for a field that is well formed but cannot be meant."""
        return _fault(self.name, self.lines, where, message, hint)


def read_document(path: Path, type: type[T]) -> T:
    """The value of a file of ours.

    Raises DocumentError, `FILE:LINE: FIELD: what is wrong`, with the remedy as hint.
    """
    return open_document(path, type).value


def open_document(path: Path, type: type[T]) -> Document[T]:
    """As `read_document`, with the lines of the fields beside the value, for checks that come later."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise DocumentError(
            f"{path}: there is no such file", hint="`dutchdoor init PATH…` writes a first one"
        ) from error
    except OSError as error:
        raise DocumentError(f"{path}: can't be read: {error.strerror}") from error
    return _parse(data, type, str(path))


def parse_document(text: str | bytes, type: type[T], name: str) -> T:
    """As `read_document`, for a text that is already here; `name` stands for the file in errors."""
    return _parse(text.encode() if isinstance(text, str) else text, type, name).value


def kind_of(path: Path) -> str | None:
    """The `kind:` that a file of ours states, or null when it states none.

    Raises DocumentError when it is no YAML.
    """
    try:
        data = path.read_bytes()[: LARGEST + 1]
    except OSError as error:
        raise DocumentError(f"{path}: can't be read: {error.strerror}") from error
    value, _ = _values(data, str(path))
    kind = value.get("kind")
    return kind if isinstance(kind, str) else None


def _parse(data: bytes, type: type[T], name: str) -> Document[T]:
    value, lines = _values(data, name)
    described = inspect.type_info(type)
    _check_kind(value, described, name, lines)
    try:
        return Document(msgspec.convert(value, type), name, lines)
    except msgspec.ValidationError as error:
        raise _explain(error, value, described, name, lines) from error


def _values(data: bytes, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The plain values of a YAML mapping, and the line of each field."""
    from ruamel.yaml import YAML  # 40 ms: only commands that read a file pay for it
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = _text(data, name)
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = " ".join(str(error.problem or error.context or "it is no YAML").split())
        raise DocumentError(f"{name}{line}: {problem}", hint=_yaml_hint(problem)) from error
    except (YAMLError, RecursionError, ValueError) as error:
        raise DocumentError(f"{name}: it is no YAML: {str(error)[:SHOWN] or 'nested too deeply'}") from error
    if node is None:
        raise DocumentError(f"{name}: the file is empty", hint="`dutchdoor init PATH…` writes a first one")
    walk = _Walk(name)
    value = walk.build(node, "", 0)
    if not isinstance(value, dict):
        raise DocumentError(
            f"{name}:{node.start_mark.line + 1}: expected fields (`kind: …`), got {_described(value)}"
        )
    return value, walk.lines


def _text(data: bytes, name: str) -> str:
    if len(data) > LARGEST:
        raise DocumentError(
            f"{name}: it is larger than {LARGEST >> 20} MiB", hint="is it the file that you meant?"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"{name}:{line}: it is not UTF-8 text", hint="save the file as UTF-8") from error
    for number, row in enumerate(text.splitlines(), 1):
        if "\t" in row[: len(row) - len(row.lstrip())]:
            raise DocumentError(f"{name}:{number}: a tab in the indentation", hint="indent with spaces")
        if row.startswith("%"):  # `%YAML 1.1` would turn `yes` and `no` into something else
            raise DocumentError(f"{name}:{number}: YAML directives are refused", hint="remove the line")
    if not text.strip():
        raise DocumentError(f"{name}: the file is empty", hint="`dutchdoor init PATH…` writes a first one")
    return text


def _yaml_hint(problem: str) -> str | None:
    if "cannot start any token" in problem:
        return "put the value in quotes, or indent with spaces"
    if "mapping values are not allowed" in problem:
        return "a value that holds `: ` needs quotes"
    if "another document" in problem:
        return "one document a file: remove the `---`"
    if "flow" in problem or "expected ',' or" in problem:
        return "close every `{` and `[`, and put commas between"
    return None


class _Walk:
    """From YAML nodes to plain values, noting lines and refusing what is not plain."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[str, int] = {}
        self._seen: set[int] = set()

    def fault(self, where: str, message: str, hint: str | None = None) -> DocumentError:
        return _fault(self.name, self.lines, where, message, hint)

    def build(self, node: Any, where: str, depth: int) -> Any:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        self.lines.setdefault(where, node.start_mark.line + 1)
        if depth > DEEPEST:
            raise self.fault(where, f"nested more than {DEEPEST} levels deep")
        if (
            id(node) in self._seen or node.anchor
        ):  # an alias is the same node again: also what a bomb is made of
            raise self.fault(where, "anchors and aliases are refused", "write the value out where it is used")
        self._seen.add(id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, where, depth)
        if isinstance(node, SequenceNode):
            self._plain_tag(node, where, "seq")
            return [self.build(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        return self._scalar(node, where)

    def _mapping(self, node: Any, where: str, depth: int) -> dict[str, Any]:
        self._plain_tag(node, where, "map")
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if key == "<<":
                raise DocumentError(
                    f"{self.name}:{line}: merge keys (`<<`) are refused", hint="write the fields out"
                )
            if not isinstance(key, str) or not str(key_node.tag).endswith(
                (":str", ":int", ":float", ":bool", ":null")
            ):
                raise DocumentError(
                    f"{self.name}:{line}: {where or 'top level'}: a field's name must be plain text"
                )
            inner = f"{where}.{key}" if where else key
            if key in found:
                raise DocumentError(
                    f"{self.name}:{line}: {inner}: given twice, first in line {self.lines[inner]}",
                    hint="keep one of them",
                )
            self.lines[inner] = line
            found[key] = self.build(value_node, inner, depth + 1)
        return found

    def _plain_tag(self, node: Any, where: str, kind: str) -> None:
        if str(node.tag) != _TAG + kind:
            raise self.fault(where, f"the tag {str(node.tag)[:SHOWN]} is refused", "remove it")

    def _scalar(self, node: Any, where: str) -> Any:
        tag, text = str(node.tag).removeprefix(_TAG), node.value
        if tag == "null" and text.lower() in _NULLS:
            return None
        if tag == "bool" and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if tag == "int":
            return self._integer(text, where)
        if tag == "float":
            return self._number(text, where)
        if tag == "timestamp":
            return self._date(text, where)
        if tag == "str":
            return text
        if tag in ("null", "bool"):  # the tag says so, the text does not
            raise self.fault(where, f"{_described(text)} is no {tag}", "remove the tag")
        raise self.fault(where, f"the tag {str(node.tag)[:SHOWN]} is refused", "remove it")

    def _integer(self, text: str, where: str) -> int:
        plain = text.replace("_", "").lower()
        sign, digits = (-1, plain[1:]) if plain.startswith("-") else (1, plain.lstrip("+"))
        base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2])
        if len(digits) > LONGEST_INTEGER:
            raise self.fault(where, f"{_described(text)} is too large a number", "give a smaller one")
        try:
            return sign * (int(digits[2:], base) if base else int(digits))
        except ValueError as error:  # `!!int f16` says that it is one
            raise self.fault(
                where, f"{_described(text)} is no whole number", "give a whole number"
            ) from error

    def _number(self, text: str, where: str) -> int | float:
        try:
            value = float(text.replace("_", ""))
        except ValueError:  # .inf and .nan
            value = math.nan
        if not math.isfinite(value):  # a bound that is not a number would decide nothing, or everything
            raise self.fault(where, f"{text} is no finite number", "give a number")
        whole = "." not in text and value.is_integer() and abs(value) < 2**53  # 8e9 is a count as well
        return int(value) if whole else value

    def _date(self, text: str, where: str) -> Any:
        if not _DATE.match(text):
            return text
        try:
            return datetime.date.fromisoformat(text)
        except ValueError as error:
            raise self.fault(where, f"{text} is no date: {error}", "write YYYY-MM-DD") from error


def _fault(name: str, lines: dict[str, int], where: str, message: str, hint: str | None) -> DocumentError:
    line, parent = lines.get(where), where
    while line is None and parent:  # a field that is missing has no line: its parent's
        parent = parent[: max(parent.rfind("."), parent.rfind("["), 0)]
        line = lines.get(parent)
    place = f"{name}:{line or 1}: " + (f"{where}: " if where else "")
    return DocumentError(place + message, hint=hint)


def _check_kind(value: dict[str, Any], described: Any, name: str, lines: dict[str, int]) -> None:
    """What a file is comes first.

    A policy that is read as a family should not complain of a missing field.
    """
    expected = next((f.type for f in getattr(described, "fields", ()) if f.name == "kind"), None)
    if not isinstance(expected, inspect.LiteralType):
        return
    allowed = [str(each) for each in expected.values]
    if "kind" not in value:
        raise _fault(
            name,
            lines,
            "",
            "the file doesn't say what it is",
            f"its first line should be `kind: {allowed[0]}`",
        )
    if value["kind"] not in allowed:
        raise _fault(
            name, lines, "kind", f"expected {' or '.join(allowed)}, got {_described(value['kind'])}", None
        )


def _explain(
    error: msgspec.ValidationError, value: Any, described: Any, name: str, lines: dict[str, int]
) -> DocumentError:
    """A validation error in words that a person reads: where it is, what is expected, what is there."""
    text = str(error)
    found = _AT.search(text)
    where = found[1].lstrip(".") if found else ""
    problem = text[: found.start()] if found else text
    there, expected = _follow(value, described, where)
    if unknown := re.match(r"Object contains unknown field `(.*)`$", problem):
        known = _fields(expected)
        inner = f"{where}.{unknown[1]}" if where else unknown[1]
        return _fault(name, lines, inner, "unknown field", _closest(unknown[1], known))
    if missing := re.match(r"Object missing required field `(.*)`$", problem):
        return _fault(name, lines, where, f"the field `{missing[1]}` is missing", f"add `{missing[1]}: …`")
    if re.match(r"Invalid enum value", problem) and (allowed := _allowed(expected)):
        shown = _described(there)
        return _fault(name, lines, where, f"{shown} is not allowed here", _closest(str(there), allowed))
    wanted = _wanted(expected) or problem[:1].lower() + problem[1:].replace("`", "")
    return _fault(name, lines, where, f"{wanted}, got {_described(there)}", _remedy(expected, there))


def _follow(value: Any, described: Any, where: str) -> tuple[Any, Any]:
    """The value and the type at a path such as `members[0].intent`; `[...]` stands for a key of a mapping."""
    for step in re.findall(r"[^.\[\]]+|\[\d+\]|\[\.\.\.\]", where):
        if (
            step == "[...]"
        ):  # msgspec doesn't say which value of a mapping it was: the first that doesn't convert
            described = getattr(_bare(described), "value_type", None)
            value = None
        elif step.startswith("["):
            index = int(step[1:-1])
            described = getattr(_bare(described), "item_type", None)
            value = value[index] if isinstance(value, list) and index < len(value) else None
        else:
            fields = {f.encode_name: f.type for f in getattr(_bare(described), "fields", ())}
            described = fields.get(step) or getattr(_bare(described), "value_type", None)
            value = value.get(step) if isinstance(value, dict) else None
    return value, _bare(described)


def _bare(described: Any) -> Any:
    """A type without `| None`, which only says that the field may be left out."""
    if isinstance(described, inspect.UnionType):
        rest = [each for each in described.types if not isinstance(each, inspect.NoneType)]
        return rest[0] if len(rest) == 1 else described
    return described


def _fields(described: Any) -> list[str]:
    return [f.encode_name for f in getattr(described, "fields", ())]


def _allowed(described: Any) -> list[str]:
    if isinstance(described, inspect.LiteralType):
        return [str(each) for each in described.values]
    if isinstance(described, inspect.EnumType):
        return [str(each.value) for each in described.cls]
    return []


def _closest(given: str, known: list[str]) -> str:
    listed = "known here: " + ", ".join(known)
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`? {listed}" if near else listed


def _wanted(described: Any) -> str | None:
    simple: dict[Any, str] = {
        inspect.BoolType: "expected true or false",
        inspect.IntType: "expected a whole number",
        inspect.FloatType: "expected a number",
        inspect.DateType: "expected a date",
        inspect.VarTupleType: "expected a list",
        inspect.DictType: "expected fields (`name: value`)",
        inspect.StructType: "expected fields (`name: value`)",
    }
    if isinstance(described, inspect.StrType):
        return "expected a short lower-case name" if described.pattern else "expected text"
    if isinstance(described, inspect.IntType | inspect.FloatType):
        return simple[type(described)] + _range(described)
    return simple.get(type(described))


def _range(described: Any) -> str:
    low = next((f" ≥ {v:g}" for v in [described.ge] if v is not None), "")
    low = low or next((f" > {v:g}" for v in [described.gt] if v is not None), "")
    high = next((f" ≤ {v:g}" for v in [described.le] if v is not None), "")
    high = high or next((f" < {v:g}" for v in [described.lt] if v is not None), "")
    return " and".join(part for part in (low, high) if part)


def _remedy(described: Any, there: Any) -> str | None:
    if isinstance(described, inspect.StrType):
        if described.pattern:
            return "letters a–z, digits, `.`, `-` and `_`; first a letter or digit; at most 63 characters"
        return None if isinstance(there, str | list | dict) else f'put it in quotes: "{there}"'
    if isinstance(described, inspect.BoolType):
        return "YAML 1.2 knows true and false; yes and no are text"
    if isinstance(described, inspect.DateType):
        return "write YYYY-MM-DD"
    if isinstance(described, inspect.VarTupleType):
        if there is None:
            return "write `[]` for none"
        return "give at least one" if there == [] else "write `[a, b]`, or one `- ` a line"
    return None


def _described(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "fields" if value else "no fields"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return f"the text {value[:SHOWN]!r}"
    return f"{value}"
