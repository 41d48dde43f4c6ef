"""The bill of a month: what was booked, summed by key, model and target.

Unknown stays unknown: requests on an unpriced target have a line of their own, whose amount is null.
"""

import csv
import io
import re
import sqlite3

import msgspec

from dutchdoor.core import UsageError
from dutchdoor.ledger.prices import usd

COLUMNS = ("state", "key", "model", "target", "requests", "input_tokens", "output_tokens", "nanodollars")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one key for one model at one target; `nanodollars` null where the price is unknown."""

    key: str
    model: str
    target: str
    requests: int
    input_tokens: int
    output_tokens: int
    nanodollars: int | None


class Interrupted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a killed gateway left open: charged nothing."""

    id: str
    key: str
    model: str
    target: str
    at: str
    reserved_nanodollars: int


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """`total_nanodollars` is the sum of all known amounts."""

    month: str
    lines: tuple[Line, ...]
    interrupted: tuple[Interrupted, ...]
    total_nanodollars: int


def month_bounds(month: str) -> tuple[str, str]:
    """The first instant of a month and of the next, as the ledger writes times; raises UsageError for no
    month.
    """
    match = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", month)
    if match is None:
        raise UsageError(f"{month!r} is no month", hint="write it as 2026-11")
    year, number = int(match[1]), int(match[2])
    following = (year + 1, 1) if number == 12 else (year, number + 1)
    return f"{year:04d}-{number:02d}-01T", f"{following[0]:04d}-{following[1]:02d}-01T"


def read_bill(db: sqlite3.Connection, month: str) -> Bill:
    """Sum up a month, by the time at which requests were admitted (UTC)."""
    bounds = month_bounds(month)
    db.execute("BEGIN")  # one snapshot for both queries
    rows = db.execute(
        "SELECT key, model, target, count(*) AS requests, sum(input_tokens) AS input_tokens,"
        " sum(output_tokens) AS output_tokens, sum(nanodollars) AS nanodollars FROM usage"
        " WHERE at >= ? AND at < ? AND state IN ('finished', 'left', 'broken')"
        " GROUP BY key, model, target, nanodollars IS NULL ORDER BY key, model, target, nanodollars IS NULL",
        bounds,
    ).fetchall()
    open_ended = db.execute(
        "SELECT id, key, model, target, at, reserved AS reserved_nanodollars FROM usage"
        " WHERE at >= ? AND at < ? AND state = 'interrupted' ORDER BY at, id",
        bounds,
    ).fetchall()
    db.execute("COMMIT")
    lines = tuple(Line(**dict(row)) for row in rows)
    return Bill(
        month=month,
        lines=lines,
        interrupted=tuple(Interrupted(**dict(row)) for row in open_ended),
        total_nanodollars=sum(line.nanodollars or 0 for line in lines),
    )


def as_csv(bill: Bill) -> str:
    """RFC 4180 with a header; an unknown amount is an empty field, an interrupted request has tokens and
    amount 0.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for line in bill.lines:
        amount = "" if line.nanodollars is None else line.nanodollars
        counts = (line.requests, line.input_tokens, line.output_tokens)
        writer.writerow(("charged", line.key, line.model, line.target, *counts, amount))
    for open_ended in bill.interrupted:
        writer.writerow(("interrupted", open_ended.key, open_ended.model, open_ended.target, 1, 0, 0, 0))
    return text.getvalue()


def as_text(bill: Bill, names: dict[str, str]) -> str:
    """As a person reads it; `names` gives the name of a key id."""
    rows: list[tuple[str, ...]] = [("key", "model", "target", "requests", "input", "output", "USD")]
    for line in bill.lines:
        amount = "unknown" if line.nanodollars is None else usd(line.nanodollars)
        counts = (line.requests, line.input_tokens, line.output_tokens)
        rows.append(
            (names.get(line.key, line.key), line.model, line.target, *(f"{n:,}" for n in counts), amount)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = [
        "  ".join(
            cell.ljust(width) if index < 3 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    unknown = sum(line.requests for line in bill.lines if line.nanodollars is None)
    shown += [
        "",
        f"total {bill.month}: {usd(bill.total_nanodollars)} USD"
        + (f" and {unknown} requests at an unknown price" if unknown else ""),
    ]
    if bill.interrupted:
        shown.append(f"interrupted, charged nothing: {len(bill.interrupted)}")
        shown += [
            f"  {each.id}  {each.at}  {each.model}  {names.get(each.key, each.key)}"
            for each in bill.interrupted
        ]
    return "\n".join(shown) + "\n"
