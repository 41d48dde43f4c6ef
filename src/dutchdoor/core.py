"""What every room agrees on: errors, tiers, verdicts, digests and the canonical form.

Holds no behaviour of any room and does no I/O apart from hashing a file it is given.
"""

import enum
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

CHUNK = 1 << 20  # bytes read at once when a file is hashed


# DutchdoorError              exit 1: the tool failed
# ├── DocumentError           a file of ours that is broken: file, line, field
# ├── WeightsError            weights that cannot be read, or must not be
# ├── EvidenceError           evidence or a signature that does not hold
# ├── EngineError             a model that cannot be loaded or reached
# ├── BundleError             a bundle that is not what it says
# ├── LedgerError             a key, a budget or a price that is not there
# ├── MissingExtraError       an optional dependency that is not installed
# └── UsageError              exit 2: the command was called wrongly
class DutchdoorError(Exception):
    """The root of all errors a person should see: `message` is the fact, `hint` is the remedy."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class DocumentError(DutchdoorError):
    """A manifest, policy, routes or suite file that is broken; the message names file, line and field."""


class WeightsError(DutchdoorError):
    """Weights that are missing, truncated, or in a format that is refused."""


class EvidenceError(DutchdoorError):
    """Evidence or a signature that cannot be read or does not hold."""


class EngineError(DutchdoorError):
    """A model that cannot be loaded, or a target that cannot be reached."""


class BundleError(DutchdoorError):
    """A bundle that cannot be made, or is not what its dossier says."""


class LedgerError(DutchdoorError):
    """A key, budget or price that does not exist or does not allow it."""


class MissingExtraError(DutchdoorError):
    """An optional dependency that is not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(
            f"{what} needs an optional part that is not installed", hint=f"pip install 'dutchdoor[{extra}]'"
        )


class UsageError(DutchdoorError):
    """The command was called in a way that cannot be meant."""


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    CLEAN = 0
    FAILED = 1  # the tool failed
    USAGE = 2
    INCONCLUSIVE = 3  # nothing was checked, or the check could not tell
    AGAINST = 10  # the check found against you


class Tier(enum.StrEnum):
    """The outcome for a member."""

    OPEN_WEIGHTS = "open-weights"
    API = "api"
    HELD = "held"


class Channel(enum.StrEnum):
    """How a member can reach people."""

    DOWNLOAD = "download"
    API = "api"


class ThreatModel(enum.StrEnum):
    """How the adversary reaches the model."""

    GUARDED = "guarded"  # through the API, with the system prompt and guard as served
    TAMPERED = "tampered"  # weights in hand, refusals trained away


class VerdictKind(enum.StrEnum):
    """Three-valued: what is not known is never a pass."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict of one rule; the same form in `decide`, `gate`, `compare` and `drill`.

    Rates are fractions; `lower` and `upper` are one-sided bounds at `confidence` each; null where it does not apply.
    """

    policy: str | None = None
    rule: str | None = None
    effect: str | None = None  # gate | warn
    member: str | None = None
    variant: str | None = None
    threat: str | None = None
    rung: str | None = None  # attack:steps:seed
    verdict: VerdictKind
    measure: str  # the expanded name, never a `*`
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    bound: float | None = None
    confidence: float | None = None
    method: str | None = None
    n: int | None = None
    missing: int | None = None
    clusters: int | None = None
    because: str | None = None


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8 (after RFC 8785 for what we hold).

    Accepts anything msgspec can encode. Floats are written in their shortest round-trip form.
    """
    return msgspec.json.encode(msgspec.to_builtins(value), order="deterministic")


def digest_bytes(data: bytes) -> str:
    """`sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_value(value: Any) -> str:
    """The digest of a value's canonical JSON."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """The digest of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(digests: Mapping[str, str]) -> str:
    """One digest for many named files: `{relative path: digest}` in canonical form."""
    return digest_value({"kind": "dutchdoor/tree@1", "files": dict(digests)})
