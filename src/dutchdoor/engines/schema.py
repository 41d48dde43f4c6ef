"""Which JSON schemas the embedded engine can hold an answer to.

llama.cpp answers freely, without a word, where it cannot read a schema. So a schema is read here first, and whatever is
outside the part of JSON Schema (draft 2020-12) that is known to be enforced is refused, and so is what nothing can
satisfy, as far as that is seen here. The engine then tries whether llama.cpp took it (`LlamaCppEngine._holds`).
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from dutchdoor.core import UsageError, canonical_json

TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
PLAIN = frozenset(
    {
        "title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated",
        "readOnly", "writeOnly", "const", "enum",
    }
)  # fmt: skip
ONE = frozenset({"items", "additionalProperties"})  # a schema or a boolean
SEVERAL = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
NAMED = frozenset({"properties", "$defs", "definitions"})
COMBINED = ("anyOf", "oneOf", "allOf")  # of the same value as the schema around them
# the most that is known to be read in little time: a thousand million items never come to an end, and llama.cpp
# holds a length in 32 bits
COUNTS = {"minItems": 10_000, "maxItems": 10_000, "minLength": 2**31 - 1, "maxLength": 2**31 - 1}
LIMITS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
LARGEST = 2**64  # of a limit: 1e30 is read, 1e308 is not
PAIRS = (  # least, most, whether they must differ
    ("minLength", "maxLength", False),
    ("minItems", "maxItems", False),
    ("minimum", "maximum", False),
    ("exclusiveMinimum", "maximum", True),
    ("minimum", "exclusiveMaximum", True),
    ("exclusiveMinimum", "exclusiveMaximum", True),
)
DEEPEST = 32
LARGEST_SCHEMA = 256 << 10  # bytes of JSON
WIDEST = (
    10_000  # characters a pattern counts out; at a million, llama.cpp gives up in the middle of an answer
)
UNBOUNDED = 2**32 - 1  # what re says of a pattern that has no bound, or more
MOST_PARTS = 200  # of oneOf: each is held against each


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises UsageError, with the place in the schema, for what cannot be enforced."""
    try:
        size = len(msgspec.json.encode(schema))
    except RecursionError as error:
        raise _refused("$", "is nested too deeply") from error
    if size > LARGEST_SCHEMA:
        raise _refused("$", f"is larger than {LARGEST_SCHEMA >> 10} KiB")
    _Check(schema).schema(schema, "$", 0)


class _Check:
    """One walk over a schema; what references lead to is walked once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._followed: set[str] = set()

    def schema(self, schema: Any, where: str, depth: int) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, Mapping):
            raise _refused(where, "is no schema")
        if depth > DEEPEST:
            raise _refused(where, "is nested too deeply")
        for key, value in schema.items():
            self._keyword(key, value, f"{where}.{key}", depth)
        _check_bounds(schema, where)
        _check_values(schema, where)
        self._check_object(schema, where)

    def _keyword(self, key: str, value: Any, here: str, depth: int) -> None:
        if key == "type":
            kinds = value if isinstance(value, list) else [value]
            if not kinds or not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
                raise _refused(here, f"{value!r} is no type of JSON")
        elif key == "$ref":
            self._follow(value, here, depth)
        elif key == "pattern":
            _check_pattern(value, here)
        elif key in ONE:
            self.schema(value, here, depth + 1)
        elif key in SEVERAL and isinstance(value, list) and value:
            for index, inner in enumerate(value):
                self.schema(inner, f"{here}[{index}]", depth + 1)
            if key == "oneOf":
                _check_one_of(value, here)
        elif key in NAMED and isinstance(value, Mapping):
            for name, inner in value.items():
                self.schema(inner, f"{here}.{name}", depth + 1)
        elif key in COUNTS:
            _check_count(value, COUNTS[key], here)
        elif key in LIMITS:
            _check_limit(value, here)
        elif key == "required":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise _refused(here, "is no list of names")
        elif key == "enum" and (not isinstance(value, list) or not value):
            raise _refused(here, "needs at least one value")
        elif key not in PLAIN:
            raise _refused(here, "cannot be enforced here")

    def _follow(self, reference: Any, where: str, depth: int) -> None:
        found = self._resolve(reference, where)
        if reference in self._followed:  # a tree refers to itself below its root: that is no circle
            return
        self._followed.add(reference)
        if self._leads_to(found, reference, set(), 0):
            raise _refused(where, f"{reference!r} leads back to itself")
        self.schema(found, where, depth + 1)

    def _resolve(self, reference: Any, where: str) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _refused(where, "only references within the schema are followed")
        found: Any = self._root
        steps = reference.removeprefix("#").split("/")
        if steps[0]:
            raise _refused(where, f"{reference!r} leads nowhere")
        for step in steps[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or step not in found:
                raise _refused(where, f"{reference!r} leads nowhere")
            found = found[step]
        return found

    def _leads_to(self, schema: Any, reference: str, passed: set[str], depth: int) -> bool:
        """Whether a reference is met again with nothing of the answer written in between."""
        if not isinstance(schema, Mapping):
            return False
        if depth > DEEPEST:
            raise _refused("$ref", f"{reference!r} is nested too deeply")
        inner = [part for key in COMBINED if isinstance(schema.get(key), list) for part in schema[key]]
        further = schema.get("$ref")
        if further == reference:
            return True
        if isinstance(further, str) and further not in passed:
            passed.add(further)
            inner.append(self._resolve(further, "$ref"))
        return any(self._leads_to(part, reference, passed, depth + 1) for part in inner)

    def _check_object(self, schema: Mapping[str, Any], where: str) -> None:
        names = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            for name in schema.get("required", ()):
                if name not in names:
                    raise _refused(
                        f"{where}.required", f"{name!r} is none of the properties, and no other is allowed"
                    )
        parts = schema.get("allOf")
        if parts is None:
            return
        # llama.cpp joins the parts of allOf into one object, and so mistakes what "additional" is said of
        alone = len(parts) == 1 and not {"properties", "required", "additionalProperties"} & schema.keys()
        if not alone and any(map(self._closes, (schema, *parts))):
            raise _refused(f"{where}.allOf", "cannot be enforced beside additionalProperties")

    def _closes(self, schema: Any) -> bool:
        """Whether a part of allOf, or what it refers to, says something of additional properties."""
        passed: set[str] = set()
        while isinstance(schema, Mapping):
            if schema.get("additionalProperties", True) not in (True, {}):
                return True
            reference = schema.get("$ref")
            if reference is None or reference in passed:
                return False
            passed.add(reference)
            schema = self._resolve(reference, "$ref")
        return False


def _check_count(value: Any, most: int, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _refused(where, f"{value!r} is no count")
    if value > most:
        raise _refused(where, f"is more than {most}")


def _check_limit(value: Any, where: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _refused(where, f"{value!r} is no number")
    if abs(value) > LARGEST:
        raise _refused(where, "is too large a number")


def _check_bounds(schema: Mapping[str, Any], where: str) -> None:
    """Bounds that nothing can lie between: an answer under them would be free, not impossible."""
    for least, most, strict in PAIRS:
        if least in schema and most in schema:
            low, high = schema[least], schema[most]
            if low > high or (strict and low == high):
                raise _refused(f"{where}.{least}", f"leaves nothing below {most}")


def _check_values(schema: Mapping[str, Any], where: str) -> None:
    if "type" not in schema:
        return
    kinds = _kinds(schema)
    for key in ("const", "enum"):
        if key in schema:
            values = schema["enum"] if key == "enum" else [schema["const"]]
            if not any(_kind(value) in kinds for value in values):
                raise _refused(f"{where}.{key}", f"has no value of the type {schema['type']!r}")


def _check_one_of(parts: list[Any], where: str) -> None:
    if len(parts) > MOST_PARTS:
        raise _refused(where, f"has more than {MOST_PARTS} parts")
    for index, part in enumerate(parts):
        for other in parts[:index]:
            if not _apart(part, other):
                raise _refused(
                    where,
                    "has parts that neither their type nor a required const or enum tells apart; "
                    "anyOf can be enforced",
                )


def _apart(one: Any, other: Any) -> bool:
    """Whether llama.cpp sees that no value can be both. References are not followed, as it does not either."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is False or other is False
    if not _kinds(one) & _kinds(other):
        return True
    if (left := _values(one)) is not None and (right := _values(other)) is not None:
        return not left & right
    if not one.get("type") == other.get("type") == "object":
        return False
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    tags = {*one.get("required", ()), *other.get("required", ())}
    return any(name in mine and name in theirs and _apart(mine[name], theirs[name]) for name in tags) or any(
        first.get("additionalProperties") is False
        and set(second.get("required", ())) - set(first.get("properties", {}))
        for first, second in ((one, other), (other, one))
    )


def _values(schema: Mapping[str, Any]) -> set[bytes] | None:
    if "const" in schema:
        return {canonical_json(schema["const"])}
    return {canonical_json(value) for value in schema["enum"]} if "enum" in schema else None


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The types a schema allows; a whole number is a number too."""
    if "type" not in schema and "anyOf" in schema:
        parts = [part if isinstance(part, Mapping) else {} for part in schema["anyOf"]]
        return set().union(*map(_kinds, parts))
    said = schema.get("type", sorted(TYPES))
    kinds = {said} if isinstance(said, str) else set(said)
    return kinds | {"integer"} if "number" in kinds else kinds


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
    return "object" if isinstance(value, Mapping) else "array"


def _check_pattern(value: Any, where: str) -> None:
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise _refused(where, f"is no regular expression: {error}") from error
    if any(WIDEST < width < UNBOUNDED for width in _widths(value)):
        raise _refused(where, f"counts out more than {WIDEST} characters")
    if re.search(r"\(\?|\\[1-9bB]", value):
        raise _refused(where, "lookarounds, back references and word boundaries cannot be enforced here")


def _widths(pattern: str) -> tuple[int, ...]:
    """The fewest and the most characters that a pattern matches."""
    parser: Any = getattr(re, "_parser", None)  # CPython's own, as in `engines.guard`
    return () if parser is None else tuple(parser.parse(pattern).getwidth())


def _refused(where: str, why: str) -> UsageError:
    return UsageError(f"the JSON schema cannot be held to: {where} {why}", hint="say it in simpler keywords")
