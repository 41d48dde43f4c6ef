"""Virtual API keys: 256 random bits, of which the ledger keeps only a SHA-256 and a prefix to recognise
them by.

A plain hash is right here, since the secret is random: there is no dictionary to try. The key is shown
once. Also the ledger's clock, its periods, and the ids of requests.
"""

import datetime
import hashlib
import random
import secrets
import time
from typing import Literal

import msgspec

Per = Literal["day", "month", "total"]
MARK = "dd-"  # what a key of ours begins with, so that secret scanners and people can tell
SHOWN = 9  # characters kept as a prefix: the mark and 36 of the 256 bits
PERIOD_DIGITS: dict[Per, int] = {"day": 10, "month": 7, "total": 0}  # how much of a time names the period


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. `budget` in nano-dollars a period, null for none; times are RFC 3339, UTC.

    `rpm` and `tpm` are requests and tokens a minute, null for no limit; `hash` is the SHA-256 of the secret
    in hex. `version` counts changes: what it allows is up to date while the ledger has the same.
    """

    id: str
    name: str
    prefix: str
    created: str
    revoked: str | None = None
    budget: int | None = None
    per: Per = "total"
    rpm: int | None = None
    tpm: int | None = None
    team: str | None = None
    admin: bool = False
    version: int = 1
    hash: str = ""


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown once, when a key is made or gets a new secret: `key` is the secret."""

    id: str
    key: str
    name: str
    prefix: str
    created: str
    budget: int | None
    per: Per
    rpm: int | None = None
    tpm: int | None = None
    team: str | None = None
    admin: bool = False


def new_secret() -> str:
    """A fresh secret: the mark and 256 random bits, URL-safe."""
    return MARK + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """What the ledger keeps of a secret: its SHA-256 in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def new_request() -> str:
    """An id for a request that sorts by time (milliseconds), so that the ledger's trees grow at their end.

    64 random bits tell apart what comes in the same millisecond. It is a name, no secret.
    """
    return f"req_{time.time_ns() // 1_000_000:012x}{random.getrandbits(64):016x}"


def now() -> datetime.datetime:
    """The ledger's clock: UTC."""
    return datetime.datetime.now(datetime.UTC)


def stamp(moment: datetime.datetime) -> str:
    """RFC 3339 in UTC with microseconds, which sorts as text."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def period(per: Per, moment: datetime.datetime) -> str:
    """The budget period a moment falls in: `2026-11-22`, `2026-11` or `total`, UTC."""
    return period_of(per, stamp(moment))


def period_of(per: Per, stamped: str) -> str:
    """The budget period of a time as the ledger writes it."""
    return stamped[: PERIOD_DIGITS[per]] or "total"
