"""What a page is made of, before anybody knows whether it will be HTML or Markdown. Text is plain, never markup."""

from dataclasses import dataclass
from typing import Literal

State = Literal["pass", "fail", "inconclusive", "plain"]


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Para:
    text: str
    state: State = "plain"


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Bar:
    """One interval against its bound; fractions, or ratios."""

    label: str
    state: State
    text: str  # the same in words and numbers
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    bound: float | None = None
    at_most: bool = True


@dataclass(frozen=True)
class Plot:
    """Intervals on one axis; a bar without numbers is only told."""

    bars: tuple[Bar, ...]
    unit: str


Block = Heading | Para | Bullets | Table | Code | Plot
