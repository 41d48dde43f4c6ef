"""What every log of another tool comes down to: samples with scores, and what the log says of itself.

A sample is one question in one epoch. What is not stated is null, never guessed.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from dutchdoor.core import DocumentError

# inspect_ai.scorer.value_to_float: correct, incorrect, no answer, and the words for them
_WORDS = {"c": True, "i": False, "n": False, "yes": True, "no": False, "true": True, "false": False}
_PARTIAL = 0.5  # "P", partially correct, there


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One question with what came out. `error` is the kind of what went wrong, in no words of the case."""

    where: str  # for messages: the file and its line, or the sample's name in it
    id: str | None = None
    input: str | None = None
    epoch: int = 1
    scores: dict[str, Any] = {}
    answer: str | None = None
    error: str | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """A whole log. `made_at` is RFC 3339 in UTC; `digest` that of the file's bytes."""

    tool: str
    version: str | None
    digest: str
    samples: tuple[Sample, ...]
    model: str | None = None
    made_at: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()  # what whoever imports should know: the run broke off


class Field(msgspec.Struct, frozen=True):
    """One score of a sample; `negated` where the log has its opposite."""

    name: str
    negated: bool = False


def field(text: str) -> Field:
    """`NAME`, or `!NAME` for its opposite."""
    return Field(text.removeprefix("!"), text.startswith("!"))


def truth(sample: Sample, what: Field, at_least: float | None) -> bool | None:
    """A score as yes, no, or null (there is none). Raises DocumentError for one that is neither.

    `at_least`: a graded score counts as yes from there on.
    """
    value = sample.scores.get(what.name)
    if isinstance(value, str):
        word = value.strip().casefold()
        value = _PARTIAL if word == "p" else _WORDS.get(word, _number(word))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if at_least is None and value not in (0, 1):
            raise DocumentError(
                f"{sample.where}: the score {what.name} is {value:g}, which is neither right nor wrong",
                hint="--at-least T says from which score on it counts as right",
            )
        value = value == 1 if at_least is None else value >= at_least
    if not isinstance(value, bool):
        raise DocumentError(f"{sample.where}: the score {what.name} is no yes or no")
    return value is not what.negated


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by name; the parts of a score that has several as `NAME.PART`."""
    found: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            found |= {f"{name}.{part}": each for part, each in value.items()}
        else:
            found[name] = value
    return found


def lies_at(row: Mapping[str, Any], path: str) -> bool:
    """Whether there is anything at `a.b`, be it null."""
    first, _, rest = path.partition(".")
    if path in row:
        return True
    inner = row.get(first)
    return bool(rest) and isinstance(inner, dict) and lies_at(inner, rest)


def dig(row: Mapping[str, Any], path: str) -> Any:
    """What lies at `a.b` in a table; null where nothing does."""
    value: Any = row.get(path)
    if value is not None or "." not in path:
        return value
    value = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
