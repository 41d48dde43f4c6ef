"""The plot of docs/benchmarks/statistics.md, an SVG: every cell a dot, by rule, against α and the bar."""

import random
from html import escape

from bench.simulate.page import ALPHA, BAR, WHAT

WIDTH, ROW, LEFT, TOP, MOST = 860, 44, 270, 56, 0.08  # pixels; the axis ends at 8 %
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.s{font-size:12px;fill:#57606a}.t{font-size:15px;font-weight:600}"
    "line{stroke:#d0d7de}.a{stroke:#57606a;stroke-dasharray:4 3}.b{stroke:#cf222e}circle{fill:#0f766e;fill-opacity:.35}"
    ".over{fill:#cf222e;fill-opacity:.9}"
)


def svg(found):
    """The whole picture, as text."""
    kinds = [kind for kind in WHAT if any(cell[0] == kind for cell in found)]
    height = TOP + ROW * len(kinds) + 44
    floor = TOP + ROW * len(kinds)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>False passes at the boundary, by rule</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text class="t" x="16" y="24">How often a claim passes whose truth lies exactly at its bound</text>',
    ]
    for percent in range(int(MOST * 100) + 1):
        x = _x(percent / 100)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="s" x="{x}" y="{floor + 18}" text-anchor="middle">{percent} %</text>')
    for row, kind in enumerate(kinds):
        parts += _row(kind, TOP + ROW * row + ROW / 2, [cell for cell in found if cell[0] == kind])
    for value, name, anchor, style in ((ALPHA, "α", "end", "a"), (BAR, "bar", "start", "b")):
        x = _x(value)
        parts.append(f'<line class="{style}" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{floor}"/>')
        shift = -5 if anchor == "end" else 5
        parts.append(
            f'<text class="s" x="{x + shift}" y="{TOP - 6}" text-anchor="{anchor}">{name} {100 * value:g} %</text>'
        )
    parts.append(f'<text class="s" x="16" y="{floor + 36}">One dot is one cell of the grid.</text></svg>')
    return "\n".join(parts) + "\n"


def _row(kind, y, cells):
    jitter = random.Random(kind)
    yield f'<text x="{LEFT - 14}" y="{y + 4}" text-anchor="end">{escape(WHAT[kind])}</text>'
    dots = {(_x(min(cell[2], MOST)), round(y + jitter.uniform(-13, 13), 1), cell[2] > BAR) for cell in cells}
    for x, height, over in sorted(dots):
        style = ' class="over"' if over else ""
        yield f'<circle{style} cx="{x}" cy="{height}" r="3"/>'


def _x(rate):
    return round(LEFT + rate / MOST * (WIDTH - LEFT - 30), 1)
