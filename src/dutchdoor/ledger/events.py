"""Usage as CloudEvents 1.0, one a request, read from the ledger in pages.

The names of `type` and `data` are those of OpenMeter's meter for tokens (`prompt`; `tokens`, `model`), so
that it counts them as it stands. An event's `id` is the request's, so that one that is sent twice counts
once; its `time` is that of admission, so that a month's events add up to the bill of that month.
"""

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from dutchdoor.core import UsageError
from dutchdoor.ledger.bill import Snapshot
from dutchdoor.ledger.keys import stamp

SOURCE = "dutchdoor"
PAGE = 1000  # events read at once; some 500 bytes each
END_OF_TIME = "9999-12-31T23:59:59.999999Z"
# how much later than it was stamped an admission may be committed, and thereby seen
UNSEEN = datetime.timedelta(seconds=60)


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to. `tokens` is input and output; `nanodollars` null where the price is unknown."""

    tokens: int
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    nanodollars: int | None
    model: str
    target: str
    team: str | None
    family: str | None
    state: str
    counted: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent in structured mode; `subject` is the id of the key."""

    specversion: str = "1.0"
    id: str
    source: str = SOURCE
    type: str = "prompt"
    subject: str
    time: str
    datacontenttype: str = "application/json"
    data: Data


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far one has read: the last event's time and id, or a time from which on to begin."""

    time: str = ""
    id: str = ""


def read_page(db: Snapshot, after: Place, until: str = END_OF_TIME, *, size: int = PAGE) -> tuple[Event, ...]:
    """The next events after a place and admitted before `until`, in the order of admission; none at the end."""
    rows = db.rows(
        "SELECT id, key, team, family, model, target, at, state, counted, input_tokens, cached_tokens,"
        " written_tokens, output_tokens, nanodollars FROM usage"
        " WHERE at >= ? AND at < ? AND (at > ? OR id > ?) ORDER BY at, id LIMIT ?",
        (after.time, until, after.time, after.id, size),
    )
    return tuple(_event(row) for row in rows)


def place_after(event: Event) -> Place:
    """Where to go on after an event."""
    return Place(time=event.time, id=event.id)


def resume_from(db: Snapshot, moment: datetime.datetime) -> str:
    """The time to begin with next time, if everything up to a moment is read after this call.

    Nothing is admitted before it that is not booked by then. Events after it may come a second time, which
    their ids make harmless.
    """
    oldest = db.rows("SELECT min(at) AS at FROM reservations")[0]["at"]
    margin = stamp(moment - UNSEEN)
    return margin if oldest is None else min(oldest, margin)


def instant(text: str) -> str:
    """A time as the ledger writes it, of a day (`2026-11-24`) or an RFC 3339 time; raises UsageError."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time", hint="write it as 2026-11-24T08:00:00Z") from error
    if moment.tzinfo is None and len(text) > len("2026-11-24"):
        raise UsageError(f"{text!r} names no time zone", hint=f"write {text}Z for UTC")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    try:
        return stamp(moment)
    except OverflowError as error:
        raise UsageError(f"{text!r} is too far away") from error


def _event(row: Mapping[str, Any]) -> Event:
    return Event(
        id=row["id"],
        subject=row["key"],
        time=row["at"],
        data=Data(
            tokens=row["input_tokens"] + row["output_tokens"],
            input_tokens=row["input_tokens"],
            cached_tokens=row["cached_tokens"],
            written_tokens=row["written_tokens"],
            output_tokens=row["output_tokens"],
            nanodollars=row["nanodollars"],
            model=row["model"],
            target=row["target"],
            team=row["team"],
            family=row["family"],
            state=row["state"],
            counted=row["counted"],
        ),
    )
