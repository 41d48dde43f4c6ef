"""Where bundles come to lie: a whole one takes its place in one step, and only the place of one of ours.

Refuses to overwrite a folder that it did not make.
"""

import os
import shutil
import tempfile
from pathlib import Path

from dutchdoor.bundle.dossier import read_statement
from dutchdoor.bundle.layout import DOSSIER
from dutchdoor.bundle.verify import read_small
from dutchdoor.core import BundleError, DutchdoorError
from dutchdoor.evidence import dsse


def require_ours(place: Path, family: str) -> None:
    """Only a bundle of this very family, or an empty folder, is ever replaced."""
    if not os.path.lexists(place) or (place.is_dir() and not place.is_symlink() and not any(place.iterdir())):
        return
    if place.is_symlink() or family_of(place) != family:
        raise BundleError(
            f"{place} is in the way: it is no bundle of {family}", hint="move it away, or give another --out"
        )


def family_of(place: Path) -> str | None:
    """The family that the dossier in a folder claims; null where there is none that can be read."""
    try:
        return read_statement(dsse.opened(read_small(place / DOSSIER))[0]).predicate.family
    except DutchdoorError:
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
