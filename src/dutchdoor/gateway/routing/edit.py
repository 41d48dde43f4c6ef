"""Changing one value of a YAML file of ours in its text: comments, order and form of all the rest stay.

Works on the places of nodes, so that what is not changed is not even read as anything. Checks nothing: whoever
edits reads the result as its kind before it counts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dutchdoor.core import DocumentError

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off"})


def flow(value: Any) -> str:
    """A value in YAML's flow form, in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(name)}: {flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(flow(each) for each in value) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Text, a number, true, false or null; text is plain where nothing else could be meant by it."""
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and value.lower() not in WORDS
        return value if plain else '"' + "".join(map(_escaped, value)) + '"'
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def put(text: str, path: Sequence[str], value: Any, *, name: str) -> str:
    """The text with `value` at a path of fields; the last field is added where it is missing.

    Raises DocumentError where a field on the way is missing; `name` stands for the file.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise DocumentError(f"{name}: it is no YAML: {error.problem or error.context}") from error
    for index, step in enumerate(path):
        found = _child(node, step)
        if found is None:
            if index < len(path) - 1:
                raise DocumentError(f"{name}: there is no {'.'.join(path[: index + 1])}")
            return _add(text, node, step, value)
        node = found
    return text[: node.start_mark.index] + _like(node, value) + text[_end(node) :]


def _child(node: Any, name: str) -> Any:
    pairs = node.value if node.id == "mapping" else ()
    return next((value for key, value in pairs if key.value == name), None)


def _end(node: Any) -> int:
    """Where a node's own text ends; a block's mark lies behind the comments that follow it."""
    if node.id == "scalar" or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _like(node: Any, value: Any) -> str:
    """A value in the form of the node in whose place it comes: a block stays a block."""
    if node.id == "scalar" or node.flow_style or not value or isinstance(value, str | int | float):
        return flow(value)
    if isinstance(value, Mapping):
        rows = [f"{scalar(name)}: {flow(each)}" for name, each in value.items()]
    else:
        rows = [f"- {flow(each)}" for each in value]
    return ("\n" + " " * int(node.start_mark.column)).join(rows)


def _add(text: str, node: Any, name: str, value: Any) -> str:
    """The text with a new last field of a mapping."""
    written = f"{scalar(name)}: {flow(value)}"
    if not node.value:  # {}
        return text[: node.start_mark.index] + "{" + written + "}" + text[node.end_mark.index :]
    end = _end(node.value[-1][1])
    if node.flow_style:
        return text[:end] + ", " + written + text[end:]
    line = text.find("\n", end)
    rest = len(text) if line < 0 else line  # behind the comment of the last field's line
    indent = " " * int(node.value[0][0].start_mark.column)
    return text[:rest] + "\n" + indent + written + text[rest:]
