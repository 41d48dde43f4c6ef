"""Which JSON schemas the embedded engine can hold an answer to.

llama.cpp answers freely, without a word, where it cannot read a schema. So a schema is read here first, and whatever is
outside the part of JSON Schema (draft 2020-12) that is known to be enforced is refused.
"""

import re
from collections.abc import Mapping
from typing import Any

from dutchdoor.core import UsageError

TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
PLAIN = frozenset(
    {
        "title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated",
        "readOnly", "writeOnly", "const", "enum", "required", "minItems", "maxItems", "minLength",
        "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    }
)  # fmt: skip
ONE = frozenset({"items", "additionalProperties"})  # a schema or a boolean
SEVERAL = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
NAMED = frozenset({"properties", "$defs", "definitions"})
DEEPEST = 32


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises UsageError, with the place in the schema, for what cannot be enforced."""
    _check(schema, schema, "$", 0)


def _check(schema: Any, root: Mapping[str, Any], where: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _refused(where, "is no schema")
    if depth > DEEPEST:
        raise _refused(where, "is nested too deeply")
    for key, value in schema.items():
        here = f"{where}.{key}"
        if key == "type":
            kinds = value if isinstance(value, list) else [value]
            if not kinds or not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
                raise _refused(here, f"{value!r} is no type of JSON")
        elif key == "$ref":
            _resolve(value, root, here)
        elif key == "pattern":
            _check_pattern(value, here)
        elif key in ONE:
            _check(value, root, here, depth + 1)
        elif key in SEVERAL and isinstance(value, list) and value:
            for index, inner in enumerate(value):
                _check(inner, root, f"{here}[{index}]", depth + 1)
        elif key in NAMED and isinstance(value, Mapping):
            for name, inner in value.items():
                _check(inner, root, f"{here}.{name}", depth + 1)
        elif key == "enum" and (not isinstance(value, list) or not value):
            raise _refused(here, "needs at least one value")
        elif key not in PLAIN:
            raise _refused(here, "cannot be enforced here")


def _resolve(reference: Any, root: Mapping[str, Any], where: str) -> None:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise _refused(where, "only references within the schema are followed")
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or step not in found:
            raise _refused(where, f"{reference!r} leads nowhere")
        found = found[step]


def _check_pattern(value: Any, where: str) -> None:
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise _refused(where, f"is no regular expression: {error}") from error
    if re.search(r"\(\?|\\[1-9bB]", value):
        raise _refused(where, "lookarounds, back references and word boundaries cannot be enforced here")


def _refused(where: str, why: str) -> UsageError:
    return UsageError(f"the JSON schema cannot be held to: {where} {why}", hint="say it in simpler keywords")
