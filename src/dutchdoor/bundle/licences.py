"""The licence text that travels with a bundle.

Takes it from the weights' own folder, else writes the text of a licence it knows. Refuses to pack without
one: a licence that is only named binds nobody. Judges no licence: see `dutchdoor.licensing`.
"""

import re
from importlib import resources
from pathlib import Path

from dutchdoor.core import BundleError

FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md", "COPYING")
NOTICES = ("NOTICE", "NOTICE.txt", "NOTICE.md")
KNOWN = ("Apache-2.0", "MIT")
# words that the text of a licence must have to be it; for the two most claimed ones
TELLING = {"Apache-2.0": "apache license", "MIT": "permission is hereby granted, free of charge"}
LARGEST_TEXT = 4 << 20  # bytes


def licence_text(expression: str, folders: list[Path], *, holder: str, year: int, whose: str) -> str:
    """The text of `expression`: the licence file in one of `folders`, else a text known here.

    Raises BundleError when there is none, or when the file there is plainly the text of another licence.
    """
    if found := _file(folders, FILES):
        text = read_text(found)
        for name, words in TELLING.items():
            if expression == name and words not in re.sub(r"\s+", " ", text).lower():
                raise BundleError(
                    f"{found} is not the text of {name}, which the manifest states for {whose}",
                    hint="correct the licence in family.yaml, or replace the file",
                )
        return text
    if expression in KNOWN:
        return known_text(expression, holder=holder, year=year)
    raise BundleError(
        f"{whose} has the licence {expression}, but its text is nowhere",
        hint=f"put it into {folders[0] / 'LICENSE'}" if folders else "put a LICENSE file beside the weights",
    )


def known_text(expression: str, *, holder: str, year: int) -> str:
    """The text of a licence in `KNOWN`, with the holder's name where the text has one."""
    text = (resources.files("dutchdoor.bundle") / "licence_texts" / f"{expression}.txt").read_text("utf-8")
    return text.replace("{year}", str(year)).replace("{holder}", holder) if expression == "MIT" else text


def notice_text(folders: list[Path], *, default: str) -> str:
    """The NOTICE of the weights' folder, else `default`."""
    found = _file(folders, NOTICES)
    return read_text(found) if found else default


def read_text(path: Path) -> str:
    """A small UTF-8 file. Raises BundleError naming it otherwise."""
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise BundleError(f"{path} is too large for a text")
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror}") from error


def _file(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)
