"""Moments as other tools write them, as evidence has them: RFC 3339 in UTC."""

import datetime


def moment(text: str | None) -> str | None:
    """`2026-11-24T19:55:07+01:00` in UTC; null for what names no moment, and for none."""
    if not text:
        return None
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is None:  # a date, or a local time of nobody knows where: taken as UTC
        found = found.replace(tzinfo=datetime.UTC)
    return found.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
