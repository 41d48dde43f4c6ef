"""The comparison as rows of words: label, A, B, and what the difference is.

Pure. Says figures the way a person reads them; how they are laid out is for `dutchdoor.drill.render`.
"""

from collections.abc import Callable
from fractions import Fraction

import msgspec

from dutchdoor.core import Verdict
from dutchdoor.drill.report import Comparison, Cost, Side, Speed, Spread
from dutchdoor.ledger.prices import usd

UNKNOWN = "unknown"
UNBROKEN = "\u00a0"  # a space at which a cell is not wrapped
NONE = "–"
EQUAL = 1.05  # ratios below this are noise to a reader
NANO = 10**9
ENOUGH_FOR_TAIL = 20  # below this the 95th percentile is the worst value
NOTHING = Speed(
    streams=0,
    requests=0,
    first_token_s=None,
    answer_s=None,
    tokens_per_s=None,
    characters_per_s=None,
    together_tokens_per_s=None,
)


class Line(msgspec.Struct, frozen=True):
    """One row of the table."""

    label: str
    a: str
    b: str
    difference: str = ""


class Section(msgspec.Struct, frozen=True):
    """Rows under one heading; `note` says under what conditions they were measured."""

    title: str
    note: str
    lines: tuple[Line, ...]


def sections(report: Comparison) -> tuple[Section, ...]:
    """All that the table shows, in the order in which a builder asks."""
    parts = [_quality(report), _alone(report), _crowd(report), _cost(report), _model(report)]
    return tuple(part for part in parts if part is not None)


def _quality(report: Comparison) -> Section:
    a, b, cases = report.a, report.b, report.cases
    lines = []
    if report.quality is not None:
        lines.append(Line("correct", _rate(a), _rate(b), _difference(report.quality)))
        only_a = sum(s.a.correct is True and s.b.correct is False for s in report.samples)
        only_b = sum(s.b.correct is True and s.a.correct is False for s in report.samples)
        lines.append(Line("right where the other is wrong", str(only_a), str(only_b)))
    if a.missing or b.missing:
        lines.append(Line("missing (no wrong answers)", str(a.missing), str(b.missing)))
    lines += _lengths(report)
    if report.quality is None:
        note = f"{cases.n} bundled prompts; they say nothing about quality (give --cases for that)"
        return Section("smoke test", note, tuple(lines))
    clustered = f" in {report.quality.clusters} clusters" if _clustered(report.quality) else ""
    return Section("quality", f"{cases.n} cases{clustered} from {cases.source}", tuple(lines))


def _clustered(verdict: Verdict) -> bool:
    return verdict.clusters is not None and verdict.n is not None and verdict.clusters < verdict.n


def _lengths(report: Comparison) -> list[Line]:
    a, b = report.a.lengths, report.b.lengths
    if a is None or b is None:
        return []
    rows = [
        Line(
            "answer length",
            f"{a.characters:.0f} characters",
            f"{b.characters:.0f} characters",
            _times(a.characters, b.characters, "shorter", "longer"),
        )
    ]
    if a.cut_off or b.cut_off:
        limit = report.cases.max_tokens
        label = "cut off at the limit" if limit is None else f"cut off at {limit} tokens"
        rows.append(Line(label, str(a.cut_off), str(b.cut_off)))
    if a.empty or b.empty:
        rows.append(Line("empty answers", str(a.empty), str(b.empty)))
    return rows


def _rate(side: Side) -> str:
    if side.correct is None or not side.asked:
        return NONE
    scored = side.asked - side.missing
    return f"{100 * side.correct / scored:.1f} % ({side.correct} of {scored})" if scored else NONE


def _difference(verdict: Verdict) -> str:
    if verdict.value is None:
        return NONE
    text = f"{points(verdict.value)} points"
    if verdict.lower is None or verdict.upper is None:
        return text
    return f"{text} [{points(verdict.lower)},{UNBROKEN}{points(verdict.upper)}]"


def points(fraction: float) -> str:
    """A signed difference in percentage points: `+1.5`, `−3.0`, `0.0`."""
    text = f"{100 * abs(fraction):.1f}"
    if float(text) == 0:
        return "0.0"
    return ("−" if fraction < 0 else "+") + text


def _alone(report: Comparison) -> Section | None:
    return _speed("speed, one request at a time", report.a.alone, report.b.alone)


def _crowd(report: Comparison) -> Section | None:
    a, b = report.a.crowd, report.b.crowd
    streams = a.streams if a is not None else b.streams if b is not None else 0
    return _speed(f"speed, {streams} requests at a time", a, b)


def _speed(title: str, a: Speed | None, b: Speed | None) -> Section | None:
    """Rows of one load; None where neither side was measured under it."""
    measured = [speed for speed in (a, b) if speed is not None]
    if not measured:
        return None
    a, b = a or NOTHING, b or NOTHING
    rows = [
        _spread_line("first token", a.first_token_s, b.first_token_s, _time, "sooner", "later"),
        _spread_line("whole answer", a.answer_s, b.answer_s, _time, "sooner", "later"),
        _spread_line("tokens/s of one answer", a.tokens_per_s, b.tokens_per_s, _number, "slower", "faster"),
        _spread_line(
            "characters/s of one answer", a.characters_per_s, b.characters_per_s, _number, "slower", "faster"
        ),
    ]
    if measured[0].streams > 1:
        total_a, total_b = a.together_tokens_per_s, b.together_tokens_per_s
        difference = _times(total_a, total_b, "slower", "faster")
        rows.append(Line("tokens/s of all together", _total(total_a), _total(total_b), difference))
    counts = " and ".join(str(n) for n in dict.fromkeys(speed.requests for speed in measured))
    tail = "95 % did better" if min(speed.requests for speed in measured) >= ENOUGH_FOR_TAIL else "the worst"
    return Section(title, f"{counts} requests after a warm-up: median ({tail})", tuple(rows))


def _spread_line(
    label: str, a: Spread | None, b: Spread | None, show: Callable[[float], str], less: str, more: str
) -> Line:
    def cell(spread: Spread | None) -> str:
        return UNKNOWN if spread is None else f"{show(spread.median)} ({show(spread.tail)})"

    median_a, median_b = None if a is None else a.median, None if b is None else b.median
    return Line(label, cell(a), cell(b), _times(median_a, median_b, less, more))


def _total(value: float | None) -> str:
    return UNKNOWN if value is None else _number(value)


def _time(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{1000 * seconds:.1f} ms" if seconds < 0.00995 else f"{1000 * seconds:.0f} ms"
    return f"{1000 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}"


def _times(a: float | None, b: float | None, less: str, more: str) -> str:
    """How A relates to B, in words: `A 2.1 × faster`."""
    if not a or not b:
        return NONE
    factor = a / b if a > b else b / a
    if factor < EQUAL:
        return "about equal"
    size = f"{factor:.2f}" if factor < 1.95 else f"{factor:.1f}" if factor < 9.95 else f"{factor:,.0f}"
    return f"A {size} × {more if a > b else less}"


def _cost(report: Comparison) -> Section:
    a, b = report.a, report.b
    rows = [
        Line("per 1,000 such requests", dollars(a.cost), dollars(b.cost), _cost_times(a.cost, b.cost)),
        Line("per million tokens, in / out", _price(a), _price(b)),
    ]
    if (tokens := (_tokens(a), _tokens(b))) != (UNKNOWN, UNKNOWN):
        rows.append(Line("tokens a request, in / out", *tokens))
    unknown = a.cost is None or b.cost is None
    return Section("cost", "unknown is not free: nobody has said" if unknown else "", tuple(rows))


def _tokens(side: Side) -> str:
    measured = side.lengths
    if measured is None or measured.input_tokens is None or measured.output_tokens is None:
        return UNKNOWN
    return f"{measured.input_tokens:.0f} / {measured.output_tokens:.0f}"


def dollars(cost: Cost | None) -> str:
    """Dollars, exact to three significant digits or to the cent."""
    return UNKNOWN if cost is None else f"${_money(Fraction(cost.per_thousand_nano_usd, NANO))}"


def _money(amount: Fraction) -> str:
    if amount >= 1 or amount == 0:
        return f"{float(amount):,.2f}"
    digits = 2
    while amount * 10**digits < 100 and digits < 9:
        digits += 1
    return f"{float(amount):.{digits}f}"


def _cost_times(a: Cost | None, b: Cost | None) -> str:
    if a is None or b is None:
        return NONE
    return _times(a.per_thousand_nano_usd, b.per_thousand_nano_usd, "cheaper", "dearer")


def _price(side: Side) -> str:
    if side.price is None:
        return UNKNOWN
    # pico-dollars a token are millionths of a dollar per million tokens, so thousands of nano-dollars
    amounts = [usd(pico * 1_000) for pico in (side.price.input_pico_usd, side.price.output_pico_usd)]
    said_by = {
        "option": "you say",
        "offer": "its offer",
        "family": "its manifest",
        "server": "its server",
    }
    return f"${amounts[0]} / ${amounts[1]} ({said_by[side.price.source]})"


def _model(report: Comparison) -> Section:
    a, b = report.a, report.b
    rows = [
        Line("licence", _licence(a), _licence(b)),
        Line(
            "parameters",
            _count(a.parameters),
            _count(b.parameters),
            _times(a.parameters, b.parameters, "smaller", "larger"),
        ),
        Line("context length", _context(a), _context(b)),
        Line("answered by", _engine(a), _engine(b)),
    ]
    if a.as_served or b.as_served:
        rows.append(Line("as served", a.as_served or NONE, b.as_served or NONE))
    return Section("model and licence", "", tuple(rows))


def _licence(side: Side) -> str:
    name = UNKNOWN if side.license is None else side.license
    return f"{name} ({side.license_source})" if side.license_source else name


def _count(parameters: int | None) -> str:
    if parameters is None:
        return UNKNOWN
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if parameters >= size:
            return f"{parameters / size:.3g} {unit}"
    return f"{parameters:,}"


def _context(side: Side) -> str:
    return UNKNOWN if side.context_length is None else f"{side.context_length:,} tokens"


def _engine(side: Side) -> str:
    if side.engine == "http":
        return f"its server ({side.engine_version})"
    name = f"{side.engine} {side.engine_version}".strip()
    return f"{name}: {side.engine_because}" if side.engine_because else name
