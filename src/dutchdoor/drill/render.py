"""The comparison on one screen: text for a terminal, markdown for a page.

Pure: a report in, a string out. Plain characters only, readable without colour.
"""

import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from dutchdoor.core import Verdict, VerdictKind
from dutchdoor.drill.report import Comparison, Reply, Sample, Side
from dutchdoor.drill.table import UNBROKEN, Line, Section, points, sections

LABEL = 30  # columns of the row labels; the longest one
PROMPTS = 20  # that are bundled
NARROW, WIDE = 80, 118
SHOWN_LINES = 4  # of an answer


def text(report: Comparison, *, answers: int = 3, width: int = 100, routes_at: Path | None = None) -> str:
    """The whole screen: what A and B are, the table, some answers side by side, the verdict, the routes."""
    width = max(NARROW, min(width, WIDE))
    blocks = [_heading(report, width), _table(sections(report), width)]
    if report.samples and answers:
        blocks.append(_answers(report, answers, width))
    notes = [_wrapped(f"{name}: {note}", width) for name, side in _sides(report) for note in side.notes]
    if notes:
        blocks.append("\n".join(notes))
    blocks.append(_wrapped(conclusion(report), width))
    title = "routes.yaml puts both behind one name" if routes_at is None else f"written to {routes_at}"
    blocks.append(f"{title}:\n" + textwrap.indent(report.routes.rstrip("\n"), "  "))
    return _steerless("\n\n".join(blocks) + "\n")


def _sides(report: Comparison) -> tuple[tuple[str, Side], ...]:
    return (("A", report.a), ("B", report.b))


def _heading(report: Comparison, width: int) -> str:
    return "\n".join(_wrapped(f"{name}  {side.address}", width, indent=3) for name, side in _sides(report))


def _wrapped(line: str, width: int, indent: int = 2) -> str:
    return textwrap.fill(line, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def _table(parts: Sequence[Section], width: int) -> str:
    lines = _row(Line("", "A", "B", "A against B"), width)
    for part in parts:
        lines += ["─" * width, *textwrap.wrap(f"{part.title.upper()}  {part.note}".rstrip(), width)]
        for line in part.lines:
            lines += _row(line, width)
    return "\n".join([*lines, "─" * width])


def _row(line: Line, width: int) -> list[str]:
    """One row, its cells wrapped where they are too long."""
    label, cell = LABEL + 1, (width - LABEL - 1) // 3
    columns = [textwrap.wrap(line.label, label - 1)]
    columns += [
        textwrap.wrap(value, cell - 2, break_on_hyphens=False) for value in (line.a, line.b, line.difference)
    ]
    height = max(len(column) for column in columns)
    rows = []
    for i in range(height):
        cells = [column[i] if i < len(column) else "" for column in columns]
        shown = cells[0].ljust(label) + "".join(value.ljust(cell) for value in cells[1:])
        rows.append(shown.rstrip().replace(UNBROKEN, " "))
    return rows


def _answers(report: Comparison, count: int, width: int) -> str:
    shown = _choice(report.samples, count)
    of = f"{len(shown)} of {len(report.samples)}"
    lines = [f"ANSWERS  {of} side by side (--answers N for more, --format json for all)"]
    for sample in shown:
        lines += ["", *_sample(sample, width)]
    return "\n".join(lines)


def _choice(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """The samples worth a look: those on which the two differ in being right, then the rest in order."""
    differing = [s for s in samples if None not in (s.a.correct, s.b.correct) and s.a.correct != s.b.correct]
    rest = [s for s in samples if s not in differing]
    return [*differing, *rest][:count]


def _sample(sample: Sample, width: int) -> list[str]:
    question = " ".join(sample.messages[-1].content.split())
    column = (width - 4) // 2
    left, right = _answer(sample.a, column - 2), _answer(sample.b, column - 2)
    rows = textwrap.wrap(
        question, width - 2, initial_indent="> ", subsequent_indent="  ", max_lines=3, placeholder=" …"
    )
    for i in range(max(len(left), len(right))):
        cells = (left[i] if i < len(left) else "", right[i] if i < len(right) else "")
        mark = ("A ", "  B ") if i == 0 else ("  ", "    ")
        rows.append((mark[0] + cells[0].ljust(column - 2) + mark[1] + cells[1]).rstrip())
    return rows


def _answer(reply: Reply, width: int) -> list[str]:
    if reply.text is None:
        shown = f"(no answer: {reply.error})"
    else:
        mark = {True: "✓ ", False: "✗ ", None: ""}[reply.correct]
        shown = mark + (" ".join(_printable(reply.text).split()) or "(empty)")
    return textwrap.wrap(shown, width, max_lines=SHOWN_LINES, placeholder=" …") or [""]


def _printable(value: str) -> str:
    """A model's words without what would move the cursor or colour the screen."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in value)


def conclusion(report: Comparison) -> str:
    """The one sentence at the end."""
    verdict = report.quality
    if verdict is None:
        missing = report.a.missing + report.b.missing
        of = "" if report.cases.n == PROMPTS else f" of {PROMPTS}, as many as there was time for,"
        asked = f"smoke test: both were asked {report.cases.n}{of} harmless prompts"
        if missing:
            of = f"{missing} of the {2 * report.cases.n} answers are missing"
            return f"{asked}; {of} ({_first_error(report)})."
        return f"{asked} and answered all; for a verdict on quality give your own --cases."
    return _judged(verdict, report)


def _first_error(report: Comparison) -> str:
    return next(
        (f"{name}: {s.first_error}" for name, s in _sides(report) if s.first_error), "no reason given"
    )


def _judged(verdict: Verdict, report: Comparison) -> str:
    if verdict.bound is None:
        if _says_interval(verdict):
            ask = "Give --margin 0.05 to ask whether A is at most 5 points worse."
            return f"no margin, no verdict: {_interval(verdict)}. {ask}"
        return f"no verdict: {verdict.because} ({_first_error(report)})."
    allowed = f"A may be at most {100 * abs(verdict.bound):g} points worse than B"
    word = {VerdictKind.PASS: "PASS", VerdictKind.FAIL: "FAIL", VerdictKind.INCONCLUSIVE: "INCONCLUSIVE"}
    return f"{word[verdict.verdict]}: {allowed}; {_interval(verdict)}: {verdict.because}."


def _says_interval(verdict: Verdict) -> bool:
    return verdict.lower is not None and verdict.upper is not None


def _interval(verdict: Verdict) -> str:
    if verdict.value is None or verdict.lower is None or verdict.upper is None:
        return "A − B could not be bounded"
    confidence = f"{100 * (verdict.confidence or 0):g} %"
    bounds = f"between {points(verdict.lower)} and {points(verdict.upper)}"
    return f"A − B is {points(verdict.value)} points, {bounds} (each bound at {confidence}, {verdict.method})"


def markdown(report: Comparison, *, answers: int = 3) -> str:
    """The same as a page: one table, the answers as quotes, the routes as a code block."""
    lines = [f"**A** `{report.a.address}` against **B** `{report.b.address}`", "", conclusion(report), ""]
    lines += ["| | A | B | A against B |", "|---|---|---|---|"]
    for part in sections(report):
        lines.append(f"| **{part.title}** | | | {_cell(part.note)} |")
        lines += [
            f"| {_cell(x.label)} | {_cell(x.a)} | {_cell(x.b)} | {_cell(x.difference)} |" for x in part.lines
        ]
    for sample in _choice(report.samples, answers):
        lines += ["", f"> {_cell(' '.join(sample.messages[-1].content.split()))}", ""]
        lines += [
            f"- {name}: {_cell(' '.join(_answer(reply, 400)))}"
            for name, reply in (("A", sample.a), ("B", sample.b))
        ]
    lines += ["", "```yaml", report.routes.rstrip("\n"), "```"]
    return _steerless("\n".join(lines) + "\n")


def _steerless(page: str) -> str:
    """A page without control characters: errors, names and licences are the words of servers."""
    return "".join(sign for sign in page if sign in "\n\t" or unicodedata.category(sign) != "Cc")


def _cell(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return escaped.replace("\n", " ").replace(UNBROKEN, " ")
