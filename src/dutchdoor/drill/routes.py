"""The routes file that puts both models behind one name, so that swapping is one word.

Writes text; reads and serves nothing: see `dutchdoor.gateway`.
"""

import re
from collections.abc import Mapping
from decimal import Decimal

from dutchdoor.drill.report import Price

ROUTE = "assistant"
MEANING = "the first answers, the second stands in; swap the two names to swap the models"
UNPRICED = "what they cost is not known of both, so the gateway must be told to serve them all the same"
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:+#-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

Target = Mapping[str, "str | Mapping[str, str]"]


def routes_text(
    name_a: str, target_a: Target, name_b: str, target_b: Target, *, unpriced: bool = False
) -> str:
    """The text of a `dutchdoor/routes@1` file with both targets and one route that asks A first.

    `unpriced`: the price of one of them is unknown, which a gateway refuses unless its route allows it.
    """
    lines = ["kind: dutchdoor/routes@1", "targets:"]
    for name, target in ((name_a, target_a), (name_b, target_b)):
        fields = ", ".join(f"{key}: {_value(value)}" for key, value in target.items())
        lines.append(f"  {_scalar(name)}: {{{fields}}}")
    order = f"[{_scalar(name_a)}, {_scalar(name_b)}]"
    lines += ["routes:", f"  # {MEANING}"]
    if unpriced:
        lines += [f"  # {UNPRICED}", f"  {ROUTE}: {{to: {order}, unpriced: allow}}"]
    else:
        lines.append(f"  {ROUTE}: {order}")
    return "\n".join(lines) + "\n"


def priced(target: Target, known: Price | None) -> Target:
    """The target with its price, where it is known and not in the family's manifest anyway."""
    if known is None or known.source == "family":
        return target
    amounts = {
        "input": per_million(known.input_pico_usd),
        "output": per_million(known.output_pico_usd),
    }
    return {**target, "price": amounts}


def per_million(pico_usd: int) -> str:
    """A price in USD per million tokens as a decimal number, exactly."""
    return f"{Decimal(pico_usd).scaleb(-6).normalize():f}"


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
