"""Where things lie in a bundle's folder, and what may lie there at all.

Lists a folder without following anything out of it: links, devices and names that another system would read
differently are reported, never opened.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

OURS = "dutchdoor"  # the folder of our own files
DOSSIER = f"{OURS}/dossier.json"
MANIFEST = f"{OURS}/manifest.json"
OFFER = f"{OURS}/offer.json"
SIGNER = f"{OURS}/signer.pub"
CARD = "README.md"
LICENCE = "LICENSE"
NOTICE = "NOTICE"
LICENCES = "LICENSES"  # one text per licence, where a bundle has several
VARIANTS = "variants"
COMPONENTS = "components"
FAMILY_BUNDLE = "_family"  # no member's name can start with an underscore

APART = frozenset({OFFER})  # signed on their own, because they change more often than the dossier
DEEPEST = 32  # folders; nothing we write is deeper
MOST_FILES = 100_000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that does not hold: the file it is about (relative to the bundle), and what is wrong."""

    file: str
    what: str


@dataclass(frozen=True)
class Listing:
    """The regular files of a folder by relative name, and what lies there that may not."""

    files: Mapping[str, Path]
    findings: tuple[Finding, ...]


def listing(folder: Path) -> Listing:
    """All files below `folder`. Raises OSError when it can't be read."""
    files: dict[str, Path] = {}
    findings: list[Finding] = []
    for name, entry in _walk(folder, "", 0, findings):
        files[name] = Path(entry.path)
        if len(files) > MOST_FILES:
            findings.append(Finding(file=name, what=f"the folder holds more than {MOST_FILES} files"))
            break
    return Listing(files, tuple(findings))


def _walk(
    folder: Path, prefix: str, depth: int, findings: list[Finding]
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    if not found and prefix:
        findings.append(Finding(file=shown(prefix), what="an empty folder that is not in the dossier"))
    for entry in found:
        name = prefix + entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            findings.append(Finding(file=shown(name), what="a link: a bundle holds plain files only"))
        elif stat.S_ISDIR(mode) and depth >= DEEPEST:
            findings.append(Finding(file=shown(name), what=f"deeper than {DEEPEST} folders"))
        elif stat.S_ISDIR(mode):
            yield from _walk(Path(entry.path), name + "/", depth + 1, findings)
        elif not stat.S_ISREG(mode):
            findings.append(Finding(file=shown(name), what="neither a file nor a folder"))
        else:
            yield name, entry


def unsafe_name(name: str) -> str | None:
    """Why a relative name can't be in a bundle; null when it can.

    Names must mean the same file on every system: plain relative POSIX paths in Unicode normal form C.
    """
    path = PurePosixPath(name)
    if not name or str(path) != name or path.is_absolute() or ".." in path.parts or name == ".":
        return "not a plain relative path"
    if "\\" in name or ":" in name or any(unicodedata.category(char)[0] == "C" for char in name):
        return "holds a backslash, a colon or a control character"
    if unicodedata.normalize("NFC", name) != name:
        return "not in Unicode normal form C"
    if any(part.endswith((" ", ".")) for part in path.parts):
        return "a part of it ends in a space or a dot"
    return None


def clashes(names: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs of names, of files or of folders above them, that a file system without case would hold as one."""
    seen: dict[str, str] = {}
    found = []
    for name in sorted(names):
        for each in (*_above(name), name):
            key = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", each).casefold())
            if seen.setdefault(key, each) != each:
                found.append((seen[key], each))
                break
    return found


def _above(name: str) -> list[str]:
    """The folders above a name, the outermost first; no more than may be there, since names can be hostile."""
    parts = name.split("/")[:-1][:DEEPEST]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def shown(name: str) -> str:
    """A file name that is safe to print: control and undecodable characters are escaped."""
    return "".join(
        char
        if unicodedata.category(char)[0] != "C"
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in name
    )
