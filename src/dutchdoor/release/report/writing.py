"""Blocks into one self-contained HTML page, or into Markdown. Everything that comes from files is escaped here.

The page asks the network for nothing and runs no script: styles and plots are inline.
"""

import html
import math
import re

from dutchdoor.release.report.blocks import Bar, Block, Bullets, Code, Heading, Para, Plot, Table
from dutchdoor.release.report.telling import told
from dutchdoor.release.report.view import View

EDGE = 0.04  # nearer to an end of the axis a label would stick out
MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "plain": ""}
STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --dim: #5b6670; --page: #ffffff; --line: #d5dbe1; --soft: #f3f5f7;
  --pass: #14713d; --fail: #b3261e; --inconclusive: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --dim: #9aa6b1; --page: #14181c; --line: #38424b;
  --soft: #1d2329; --pass: #5ecb8a; --fail: #ff8a80; --inconclusive: #e9b44c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 58rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; }
p.pass, p.fail, p.inconclusive { border-left: 4px solid; padding-left: .7rem; }
p.pass { border-color: var(--pass); } p.fail { border-color: var(--fail); }
p.inconclusive { border-color: var(--inconclusive); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line);
  min-width: 5rem; overflow-wrap: break-word; }
th { color: var(--dim); font-weight: 600; }
pre { background: var(--soft); padding: .8rem; border-radius: .3rem; white-space: pre-wrap; font-size: .88rem; }
.bar { border-bottom: 1px solid var(--line); padding: .4rem 0; break-inside: avoid; }
.bar .label { font-size: .9rem; font-weight: 600; }
.bar .text { font-size: .85rem; color: var(--dim); }
.unit { font-size: .78rem; color: var(--dim); text-align: right; }
.bar .mark { display: inline-block; width: 1.2em; font-weight: 700; }
.pass .mark { color: var(--pass); } .fail .mark { color: var(--fail); }
.inconclusive .mark { color: var(--inconclusive); }
svg { display: block; width: 100%; overflow: visible; }
svg.track { height: 24px; } svg.axis { height: 20px; }
.plot { padding: 0 1.2rem; }
line.rail { stroke: var(--line); } line.zero { stroke: var(--line); stroke-dasharray: 2 2; }
.pass line.span { stroke: var(--pass); } .fail line.span { stroke: var(--fail); }
.inconclusive line.span { stroke: var(--inconclusive); } line.span { stroke-width: 3; }
.pass circle { fill: var(--pass); } .fail circle { fill: var(--fail); }
.inconclusive circle { fill: var(--inconclusive); }
line.bound { stroke: var(--ink); stroke-width: 2; } rect.allowed { fill: var(--soft); }
text { fill: var(--dim); font-size: 11px; }
@media print { body { max-width: none; font-size: 11pt; padding: 0; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; } }
"""


class Raw(str):
    """Markup that was made here. Any other text is escaped."""

    __slots__ = ()


def el(name: str, *children: str, **attributes: str) -> Raw:
    """An element; plain strings in it are escaped. `class_` stands for `class`."""
    attrs = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    inside = "".join(each if isinstance(each, Raw) else html.escape(each) for each in children)
    return Raw(f"<{name}{attrs}>{inside}</{name}>")


def html_page(view: View) -> str:
    """The whole page."""
    title = f"{view.family} {view.version}: release report"
    body = "\n".join(_html(block) for block in told(view))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"{el('title', title)}<style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html(block: Block) -> Raw:
    match block:
        case Heading():
            return el(f"h{block.level}", block.text)
        case Para(state="plain"):
            return el("p", block.text)
        case Para():
            return el("p", f"{MARKS[block.state]} {block.text}", class_=block.state)
        case Bullets():
            return el("ul", *(el("li", each) for each in block.items))
        case Code():
            return el("pre", block.text)
        case Table():
            head = el("tr", *(el("th", each, scope="col") for each in block.head))
            rows = [el("tr", *(el("td", each) for each in row)) for row in block.rows]
            return el("div", el("table", el("thead", head), el("tbody", *rows)), class_="scroll")
        case Plot():
            return _plot(block)


def _plot(plot: Plot) -> Raw:
    """Rows of label, track and numbers; positions are percentages, so that it fits any width."""
    low, high = _range(plot)
    rows = [_row(bar, low, high) for bar in plot.bars]
    if any(bar.bound is not None for bar in plot.bars):
        rows.append(_axis(low, high, plot.unit))
    return el("div", *rows, class_="plot")


def _range(plot: Plot) -> tuple[float, float]:
    ends = [
        each
        for bar in plot.bars
        for each in (bar.lower, bar.upper, bar.bound, bar.value)
        if each is not None and math.isfinite(each)
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = (high - low or 1.0) * 0.04
    return (low - room if low < 0 else low), high + room


def _row(bar: Bar, low: float, high: float) -> Raw:
    label = el("div", el("span", MARKS[bar.state], class_="mark"), bar.label, class_="label")
    parts = [label]
    if bar.bound is not None and bar.lower is not None and bar.upper is not None:
        parts.append(_track(bar, low, high))
    parts.append(el("div", bar.text, class_="text"))
    return el("div", *parts, class_=f"bar {bar.state}")


def _track(bar: Bar, low: float, high: float) -> Raw:
    def at(value: float | None) -> str:
        inside = min(max(value if value is not None else low, low), high)
        return f"{100 * (inside - low) / (high - low):.2f}%"

    def upright(kind: str, value: float | None, top: int, bottom: int) -> Raw:
        return el("line", class_=kind, x1=at(value), x2=at(value), y1=str(top), y2=str(bottom))

    from_, to = (low, bar.bound) if bar.at_most else (bar.bound, high)
    width = f"{max(0.0, float(at(to)[:-1]) - float(at(from_)[:-1])):.2f}%"
    marks = [
        el("rect", class_="allowed", x=at(from_), y="3", width=width, height="18"),
        el("line", class_="rail", x1="0%", x2="100%", y1="12", y2="12"),
        upright("zero", 0.0, 2, 22),
        el("line", class_="span", x1=at(bar.lower), x2=at(bar.upper), y1="12", y2="12"),
        upright("span", bar.lower, 8, 16),
        upright("span", bar.upper, 8, 16),
        upright("bound", bar.bound, 2, 22),
    ]
    if bar.value is not None:
        marks.append(el("circle", cx=at(bar.value), cy="12", r="4.5"))
    return el("svg", el("title", bar.text), *marks, class_="track", role="img")


def _axis(low: float, high: float, unit: str) -> Raw:
    ticks = []
    for value in _round_ticks(low, high):
        share = (value - low) / (high - low)
        anchor = "start" if share < EDGE else "end" if share > 1 - EDGE else "middle"
        place = {"x": f"{100 * share:.2f}%", "y": "14", "text-anchor": anchor}
        ticks.append(el("text", f"{value:g}", **place))
    return el("div", el("svg", *ticks, class_="axis"), el("div", unit, class_="unit"))


def _round_ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers between two ends: 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= raw * 0.6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


# --- Markdown -------------------------------------------------------------------------------------------------------

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def md(text: str) -> str:
    """Text that Markdown, and HTML inside it, takes as text; on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def markdown_page(view: View) -> str:
    """The same as Markdown; plots become tables."""
    return "\n\n".join(_markdown(block) for block in told(view)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {md(block.text)}"
        case Para(state="plain"):
            return md(block.text)
        case Para():
            return f"**{block.state}** {md(block.text)}"
        case Bullets():
            return "\n".join(f"- {md(each)}" for each in block.items)
        case Code():
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Table():
            return _rows(block.head, block.rows)
        case Plot():
            rows = tuple((bar.state, bar.label, bar.text) for bar in block.bars)
            return _rows(("verdict", "rule", "measured"), rows)


def _rows(head: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    lines = [head, ("---",) * len(head)]
    text = [f"| {' | '.join(lines[0])} |", f"| {' | '.join(lines[1])} |"]
    return "\n".join([*text, *(f"| {' | '.join(md(each) for each in row)} |" for row in rows)])
