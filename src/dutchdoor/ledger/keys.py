"""Virtual API keys: 256 random bits, of which the ledger keeps only a SHA-256 and a prefix to recognise
them by.

A plain hash is right here, since the secret is random: there is no dictionary to try. The key is shown
once.
"""

import datetime
import hashlib
import secrets
from typing import Literal

import msgspec

Per = Literal["day", "month", "total"]
MARK = "dd-"  # what a key of ours begins with, so that secret scanners and people can tell
SHOWN = 9  # characters kept as a prefix: the mark and 36 of the 256 bits


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. `budget` in nano-dollars a period, null for none; times are RFC 3339, UTC."""

    id: str
    name: str
    prefix: str
    created: str
    revoked: str | None = None
    budget: int | None = None
    per: Per = "total"


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown once, when a key is made: `key` is the secret."""

    id: str
    key: str
    name: str
    prefix: str
    created: str
    budget: int | None
    per: Per


def new_secret() -> str:
    """A fresh secret: the mark and 256 random bits, URL-safe."""
    return MARK + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> bytes:
    """What the ledger keeps of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def now() -> datetime.datetime:
    """The ledger's clock: UTC."""
    return datetime.datetime.now(datetime.UTC)


def stamp(moment: datetime.datetime) -> str:
    """RFC 3339 in UTC with microseconds, which sorts as text."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def period(per: Per, moment: datetime.datetime) -> str:
    """The budget period a moment falls in: `2026-11-22`, `2026-11` or `total`, UTC."""
    day = moment.astimezone(datetime.UTC)
    return {"day": day.strftime("%Y-%m-%d"), "month": day.strftime("%Y-%m"), "total": "total"}[per]
