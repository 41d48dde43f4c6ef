"""The bill of a month: what was booked, summed by key, model and target, or by one thing of one's choice.

Unknown stays unknown: requests on an unpriced target have a line of their own, whose amount is null.
Requests that came to nothing because every target failed are on no line.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import msgspec
from msgspec import UNSET, UnsetType

from dutchdoor.core import UsageError
from dutchdoor.ledger.prices import usd

By = Literal["key", "team", "family", "model", "target", "day"]
USUAL: tuple[By, ...] = ("key", "model", "target")
COLUMNS: dict[By, str] = {by: by for by in get_args(By)} | {"day": "substr(at, 1, 10)"}
COUNTS = ("requests", "input_tokens", "cached_tokens", "output_tokens")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a cell that begins so is run by a spreadsheet (OWASP)
# what a line is made of: everything but what a killed gateway left open, and failures that came to nothing
CHARGED = "state <> 'interrupted' AND (state <> 'failed' OR input_tokens > 0 OR output_tokens > 0 OR nanodollars > 0)"


class Snapshot(Protocol):
    """The books at one moment."""

    def rows(self, sql: str, params: Sequence[object] = ()) -> Sequence[Mapping[str, Any]]:
        """The rows of a query whose parameters are written `?`."""
        ...


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Requests that have something in common; `nanodollars` null where the price is unknown.

    What the bill is not broken down by is left out, and so is what there was none of. `alarms` counts
    requests whose usage came to more than was reserved, and which were charged as reserved.
    """

    key: str | UnsetType = UNSET
    team: str | UnsetType | None = UNSET
    family: str | UnsetType | None = UNSET
    model: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    day: str | UnsetType = UNSET
    requests: int
    input_tokens: int
    cached_tokens: int = 0  # of the input
    output_tokens: int
    nanodollars: int | None
    alarms: int = 0

    def named(self, by: By) -> str:
        """What the line has in common, empty where that is nothing."""
        return getattr(self, by) or ""


class Interrupted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a killed gateway left open: charged nothing."""

    id: str
    key: str
    model: str
    target: str
    at: str
    reserved_nanodollars: int


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was not charged what its tokens come to, or not to whom it should be; `because` says
    why.
    """

    id: str
    key: str
    model: str
    target: str
    at: str
    nanodollars: int | None
    because: str


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """`total_nanodollars` is the sum of all known amounts. `by` and `alarms` are left out where there are
    none.
    """

    month: str
    by: By | UnsetType = UNSET
    lines: tuple[Line, ...]
    interrupted: tuple[Interrupted, ...]
    alarms: tuple[Alarm, ...] | UnsetType = UNSET
    total_nanodollars: int

    @property
    def groups(self) -> tuple[By, ...]:
        """What the lines are broken down by."""
        return USUAL if self.by is UNSET else (self.by,)


def month_bounds(month: str) -> tuple[str, str]:
    """The first instant of a month and of the next, as the ledger writes times; raises UsageError for no
    month.
    """
    match = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", month)
    if match is None:
        raise UsageError(f"{month!r} is no month", hint="write it as 2026-11")
    year, number = int(match[1]), int(match[2])
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return f"{year:04d}-{number:02d}-01T", f"{following[0]:04d}-{following[1]:02d}-01T"


def read_bill(
    db: Snapshot, month: str, *, key: str | None = None, team: str | None = None, by: By | None = None
) -> Bill:
    """Sum up a month, by the time at which requests were admitted (UTC); of one key (its id) or team only."""
    where, params = "at >= ? AND at < ?", [*month_bounds(month)]
    for column, wanted in (("key", key), ("team", team)):
        if wanted is not None:
            where, params = f"{where} AND {column} = ?", [*params, wanted]
    lines = sum_up(db, where, params, USUAL if by is None else (by,))
    alarms = tuple(
        Alarm(**row)
        for row in db.rows(
            "SELECT id, key, model, target, at, nanodollars, alarm AS because FROM usage"  # noqa: S608 - no data
            f" WHERE {where} AND alarm IS NOT NULL ORDER BY at, id",
            params,
        )
    )
    interrupted = db.rows(
        "SELECT id, key, model, target, at, reserved AS reserved_nanodollars FROM usage"  # noqa: S608 - no data
        f" WHERE {where} AND state = 'interrupted' ORDER BY at, id",
        params,
    )
    return Bill(
        month=month,
        by=by or UNSET,
        lines=lines,
        interrupted=tuple(Interrupted(**row) for row in interrupted),
        alarms=alarms or UNSET,
        total_nanodollars=sum(line.nanodollars or 0 for line in lines),
    )


def sum_up(db: Snapshot, where: str, params: Sequence[object], groups: Sequence[By]) -> tuple[Line, ...]:
    """Lines of what `where` allows, sorted by what they have in common, known amounts first."""
    columns = ", ".join(COLUMNS[by] for by in groups)
    rows = db.rows(
        f"SELECT {', '.join(f'{COLUMNS[by]} AS {by}' for by in groups)},"  # noqa: S608 - names of ours only
        " count(*) AS requests, sum(input_tokens) AS input_tokens, sum(cached_tokens) AS cached_tokens,"
        " sum(output_tokens) AS output_tokens, sum(nanodollars) AS nanodollars, count(alarm) AS alarms"
        f" FROM usage WHERE {where} AND {CHARGED} GROUP BY {columns}, nanodollars IS NULL",
        params,
    )
    lines = [_line(row, groups) for row in rows]
    return tuple(
        sorted(lines, key=lambda line: ([line.named(by) for by in groups], line.nanodollars is None))
    )


def _line(row: Mapping[str, Any], groups: Sequence[By]) -> Line:
    """PostgreSQL's sums are decimals, so each is made an integer again."""
    amount = row["nanodollars"]
    return Line(
        **{by: row[by] for by in groups},
        requests=int(row["requests"]),
        input_tokens=int(row["input_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        output_tokens=int(row["output_tokens"]),
        nanodollars=None if amount is None else int(amount),
        alarms=int(row["alarms"]),
    )


def as_csv(bill: Bill) -> str:
    """RFC 4180 with a header; an unknown amount is an empty field, an interrupted request has tokens and
    amount 0. A name that a spreadsheet would run gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("state", *bill.groups, *COUNTS, "nanodollars", "alarms"))
    for line in bill.lines:
        names = (cell(line.named(by)) for by in bill.groups)
        amount = "" if line.nanodollars is None else line.nanodollars
        writer.writerow(("charged", *names, *_counts(line), amount, line.alarms))
    for each in bill.interrupted if bill.by is UNSET else ():
        names = (cell(name) for name in (each.key, each.model, each.target))
        writer.writerow(("interrupted", *names, 1, 0, 0, 0, 0, 0))
    return text.getvalue()


def cell(text: str) -> str:
    """A cell that a spreadsheet shows and never runs."""
    return f"'{text}" if text.startswith(FORMULA) else text


def as_text(bill: Bill, names: Mapping[str, str]) -> str:
    """As a person reads it; `names` gives the name of a key id."""
    rows = [(*bill.groups, "requests", "input", "cached", "output", "USD")]
    for line in bill.lines:
        shown = (
            names.get(line.named(by), line.named(by)) if by == "key" else line.named(by) or "–"
            for by in bill.groups
        )
        amount = "unknown" if line.nanodollars is None else usd(line.nanodollars)
        rows.append((*shown, *(f"{count:,}" for count in _counts(line)), amount))
    unknown = sum(line.requests for line in bill.lines if line.nanodollars is None)
    total = f"total {bill.month}: {usd(bill.total_nanodollars)} USD"
    return "".join(
        f"{line}\n"
        for line in (
            *columns(rows, left=len(bill.groups)),
            "",
            total + (f" and {unknown} requests at an unknown price" if unknown else ""),
            *_interrupted(bill, names),
            *_alarms(bill, names),
        )
    )


def columns(rows: Iterable[tuple[str, ...]], *, left: int) -> Iterable[str]:
    """Rows in columns, of which the first `left` are flush left, the others flush right."""
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        padded = (
            text.ljust(width) if index < left else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(padded).rstrip()


def _counts(line: Line) -> tuple[int, ...]:
    return tuple(getattr(line, name) for name in COUNTS)


def _interrupted(bill: Bill, names: Mapping[str, str]) -> Iterable[str]:
    if bill.interrupted:
        yield f"interrupted, charged nothing: {len(bill.interrupted)}"
    for each in bill.interrupted:
        yield f"  {each.id}  {each.at}  {each.model}  {names.get(each.key, each.key)}"


def _alarms(bill: Bill, names: Mapping[str, str]) -> Iterable[str]:
    if bill.alarms is UNSET:
        return
    yield f"alarms: {len(bill.alarms)}"
    for each in bill.alarms:
        yield f"  {each.id}  {each.at}  {each.model}  {names.get(each.key, each.key)}  {each.because}"
