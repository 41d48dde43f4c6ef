"""The routes file that puts both models behind one name, so that swapping is one word.

Writes text; reads and serves nothing: see `dutchdoor.gateway`.
"""

import re
from collections.abc import Mapping

ROUTE = "assistant"
MEANING = "the first answers, the second stands in; swap the two names to swap the models"
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:+#-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

Target = Mapping[str, "str | Mapping[str, str]"]


def routes_text(name_a: str, target_a: Target, name_b: str, target_b: Target, *, route: str = ROUTE) -> str:
    """The text of a `dutchdoor/routes@1` file with both targets and one route that asks A first."""
    lines = ["kind: dutchdoor/routes@1", "targets:"]
    for name, target in ((name_a, target_a), (name_b, target_b)):
        fields = ", ".join(f"{key}: {_value(value)}" for key, value in target.items())
        lines.append(f"  {_scalar(name)}: {{{fields}}}")
    lines += [
        "routes:",
        f"  {route}: [{_scalar(name_a)}, {_scalar(name_b)}]  # {MEANING}",
    ]
    return "\n".join(lines) + "\n"


def target_names(a: str, b: str) -> tuple[str, str]:
    """Two different target names made of two model names."""
    first, second = _slug(a), _slug(b)
    return (f"{first}-a", f"{second}-b") if first == second else (first, second)


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:60]
    return slug or "model"


def _value(value: str | Mapping[str, str]) -> str:
    if isinstance(value, str):
        return _scalar(value)
    return "{" + ", ".join(f"{key}: {inner}" for key, inner in value.items()) + "}"  # numbers, as they are


def _scalar(text: str) -> str:
    """A YAML 1.2 flow scalar: plain where nothing else could be meant, else double-quoted."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not text.endswith(":"):
        return text
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
