"""Where bundles come to lie: a whole one takes its place in one step, and only the place of one of ours.

Refuses to overwrite a folder that it did not make.
"""

import base64
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from dutchdoor.bundle.layout import DOSSIER, MANIFEST
from dutchdoor.bundle.verify import read_small
from dutchdoor.core import BundleError, DutchdoorError


def require_ours(place: Path, family: str) -> None:
    """Only a bundle of this very family, or an empty folder, is ever replaced."""
    if not os.path.lexists(place) or (place.is_dir() and not place.is_symlink() and not any(place.iterdir())):
        return
    if place.is_symlink() or family_of(place) != family:
        raise BundleError(
            f"{place} is in the way: it is no bundle of {family}", hint="move it away, or give another --out"
        )


class _Named(msgspec.Struct):
    family: str


class _Predicated(msgspec.Struct):
    predicate: _Named


class _Enveloped(msgspec.Struct):
    payload: str


def family_of(place: Path) -> str | None:
    """The family whose bundle a folder claims to be; null where it claims nothing.

    Reads loosely: what was reformatted or damaged since is still a bundle that we made, and may be replaced.
    """
    try:
        envelope = msgspec.json.decode(read_small(place / DOSSIER), type=_Enveloped)
        payload = base64.b64decode(envelope.payload)
        return msgspec.json.decode(payload, type=_Predicated).predicate.family
    except (DutchdoorError, msgspec.MsgspecError, ValueError, RecursionError):
        pass  # the manifest says it too
    try:
        return msgspec.json.decode(read_small(place / MANIFEST), type=_Named).family
    except (DutchdoorError, msgspec.MsgspecError, ValueError, RecursionError):
        return None


def put(made: Path, place: Path) -> Path:
    """Move a whole bundle to its place; the one that was there goes only when the new one can come."""
    old: Path | None = None
    if place.exists():
        old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-old-"))
        place.rename(old)  # onto an empty folder
    made.rename(place)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return place
