"""Does a folder hold anything that is closed? A first check, by equal content.

Finds closed files under any name, closed tensors in any safetensors or GGUF file, and the text of closed
prompts, guards and data in any text file or weights' header. What it can't see is in `BLIND_SPOTS`.
Content that is public already (a reference's weights) and files that open weights hold as well (a shared
tokenizer) are not closed.
"""

import asyncio
import codecs
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.bundle.tree import digest_files
from dutchdoor.core import CHUNK, BundleError, WeightsError
from dutchdoor.family.weights import TensorSpan, header_size, tensors

BLIND_SPOTS = (
    "weights that were changed at all: re-cast, quantised, transposed, cut, or merged into other weights",
    "content inside archives, compressed files, and whatever else holds NUL bytes (but UTF-16 text)",
    "text that was reworded, pieces of closed text under 40 characters, closed data inside a longer line",
    "closed code that was edited, and files under 16 bytes",
    "copied sentences of a document that is closed only because its member is",
    "what a model learnt from a closed one or from closed data",
)
WEIGHTS = (".safetensors", ".gguf")
SMALLEST_FILE = 16  # bytes; `{}` is nobody's secret
SMALLEST_TENSOR = 256  # bytes
SHORTEST_PIECE = 40  # characters of one line; licence and YAML boilerplate is mostly shorter
LARGEST_TEXT = 64 << 20  # bytes; a larger text is searched in pieces
WINDOW = 16 << 20  # bytes of such a piece
OVERLAP = 64 << 10  # bytes that are searched twice, so that no cut goes through a prompt
SNIFFED = 8 << 10  # bytes in which a NUL tells that a file is no text
SEARCHED = frozenset({"system-prompt", "safety-tooling"})  # whose lines are searched anywhere
TEMPLATE = "chat-template"  # searched as a whole: single lines are the same in many models
# too many to search: their lines are compared whole
DATA = frozenset({"datasets", "evaluation-data"})
DOCUMENTS = frozenset(
    {
        "model-card",
        "data-card",
        "technical-report",
        "research-paper",
        "evaluation-results",
        "sample-model-outputs",
    }
)


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """Closed content in a file: whose it is, and how it was recognised."""

    file: str
    component: str
    how: str


@dataclass(frozen=True)
class Closed:
    """One closed component: how people know it, and its files."""

    component: str
    kind: str
    files: Mapping[str, Path]
    weights: bool = False  # a variant: only its weights are its own, a tokenizer may be shared
    # closed with its member's download and by nothing else: the cards of one family share sentences
    follows: bool = False


@dataclass
class _Known:
    """Closed content by what recognises it."""

    files: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    searched: dict[str, str] = field(default_factory=dict)
    compared: dict[int, str] = field(default_factory=dict)  # by hash: closed data can be larger than memory


async def find_leaks(
    files: Mapping[str, Path],
    closed: Sequence[Closed],
    *,
    shared: Sequence[Path] = (),
    public: Sequence[Path] = (),
    texts: Mapping[str, str] | None = None,
    digests: Mapping[str, str] | None = None,
) -> tuple[Leak, ...]:
    """Every place in `files` (and `texts`) where content of `closed` was recognised.

    `digests` are those of `files`, where they are known. `shared` are files of open weights whose equals
    in closed weights (a tokenizer) are not secret; `public` are files that anyone has. Raises WeightsError
    for broken weights.
    """
    known = await _know(files, closed, shared, public)
    digests = digests or await digest_files(files)
    found = [
        Leak(file=name, component=known.files[digest], how="the same file")
        for name, digest in digests.items()
        if digest in known.files
    ]
    found += await asyncio.to_thread(lambda: list(_in_weights(files, known)))
    found += await asyncio.to_thread(lambda: list(_in_texts(files, texts or {}, known)))
    return tuple(dict.fromkeys(found))


async def _know(
    files: Mapping[str, Path], closed: Sequence[Closed], shared: Sequence[Path], public: Sequence[Path]
) -> _Known:
    known = _Known()
    innocent = set((await digest_files({str(path): path.resolve() for path in (*shared, *public)})).values())
    for part in closed:
        large = {
            name: path.resolve() for name, path in part.files.items() if path.stat().st_size >= SMALLEST_FILE
        }
        for name, digest in (await digest_files(large)).items():
            is_shared = part.weights and not name.endswith(WEIGHTS) and digest in innocent
            if not is_shared:
                known.files.setdefault(digest, part.component)
    sizes = {span.nbytes for path in files.values() for span in _spans(path)}
    hashed = await asyncio.to_thread(lambda: {d for path in public for _, d in _tensors(path, sizes)})
    for part in closed:
        for path in part.files.values():
            for name, digest in await asyncio.to_thread(_listed, path, sizes):
                if digest not in hashed:
                    known.tensors.setdefault(digest, f"{part.component}, tensor {name}")
        for path in part.files.values():
            if part.kind in SEARCHED:
                pieces = await asyncio.to_thread(set, _pieces(path))
                known.searched |= dict.fromkeys(pieces, part.component)
            elif part.kind == TEMPLATE and not part.follows:
                whole = _normal("".join(await asyncio.to_thread(list, _texts(path))))
                if len(whole) >= SHORTEST_PIECE:
                    known.searched[whole] = part.component
            elif part.kind in DATA or (part.kind in DOCUMENTS and not part.follows):
                hashes = await asyncio.to_thread(set, map(hash, _pieces(path)))
                known.compared |= dict.fromkeys(hashes, part.component)
    return known


def _in_weights(files: Mapping[str, Path], known: _Known) -> Iterator[Leak]:
    if not known.tensors:
        return
    for name, path in files.items():
        for tensor, digest in _tensors(path, None):
            if digest in known.tensors:
                yield Leak(
                    file=name, component=known.tensors[digest], how=f"the same numbers, as tensor {tensor}"
                )


def _in_texts(files: Mapping[str, Path], texts: Mapping[str, str], known: _Known) -> Iterator[Leak]:
    if not known.searched and not known.compared:
        return
    for name, path in files.items():
        seen: set[str] = set()  # of a large file, one place for each component is enough
        for text in _texts(path):
            for leak in _in_text(name, text, known):
                if leak.component not in seen:
                    seen.add(leak.component)
                    yield leak
    for name, text in texts.items():
        yield from _in_text(name, text, known)


def _in_text(name: str, text: str, known: _Known) -> Iterator[Leak]:
    strings = [_normal(line) for line in _strings(text)]
    whole = "\n".join(strings)
    found = [(piece, known.compared[hash(piece)]) for piece in strings if hash(piece) in known.compared]
    found += [(piece, component) for piece, component in known.searched.items() if piece in whole]
    for component in dict.fromkeys(component for _, component in found):
        piece = next(piece for piece, each in found if each == component)
        yield Leak(file=name, component=component, how=f"its text: “{piece[:40]}…”")


def _spans(path: Path) -> tuple[TensorSpan, ...]:
    """Where each tensor lies in a weights file; nothing for other files."""
    return tensors(path) if path.suffix.lower() in WEIGHTS else ()


def _listed(path: Path, sizes: set[int]) -> list[tuple[str, str]]:
    return list(_tensors(path, sizes))


def _tensors(path: Path, sizes: set[int] | None) -> Iterator[tuple[str, str]]:
    """Name and digest of each tensor that is large enough, no constant, and of these sizes (null: any)."""
    wanted = [
        span
        for span in _spans(path)
        if span.nbytes >= SMALLEST_TENSOR and (sizes is None or span.nbytes in sizes)
    ]
    with path.open("rb") as file:
        for span in wanted:
            file.seek(span.offset)
            hashed, left, constant, unit = hashlib.sha256(), span.nbytes, True, b""
            while left:
                piece = file.read(min(CHUNK, left))
                if not piece:
                    raise WeightsError(f"{path} ends within the tensor {span.name[:80]!r}")
                unit = unit or piece[:8]
                constant = constant and piece == (unit * (len(piece) // 8 + 1))[: len(piece)]
                hashed.update(piece)
                left -= len(piece)
            if not constant:  # all zeros or all ones are in every model
                yield span.name, hashed.hexdigest()


def _pieces(path: Path) -> Iterator[str]:
    """The texts that give a closed file away: its longer lines, paragraphs and strings."""
    for text in () if path.suffix.lower() in WEIGHTS else _texts(path):
        for each in _strings(text):
            if len(line := _normal(each)) >= SHORTEST_PIECE:
                yield line


def _texts(path: Path) -> Iterator[str]:
    """A file's text, in several overlapping pieces if it is large; a weights file's header; nothing of what is neither.

    Bytes that are not UTF-8 are replaced: one of them must not hide the rest. Raises BundleError for a large
    text whose strings can't be read piece by piece.
    """
    if path.suffix.lower() in WEIGHTS:
        yield _header(path)
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(SNIFFED)
        file.seek(0)
        wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if b"\0" in start and not wide:
            return
        if size <= LARGEST_TEXT:
            yield file.read().decode("utf-16" if wide else "utf-8-sig", "replace")
            return
        if wide or _is_one_value(path):
            raise BundleError(
                f"{path} is too large to be searched for closed content",
                hint="write it as UTF-8 text with one line, or one JSON value, for each record",
            )
        held = b""
        while block := file.read(WINDOW):
            held += block
            cut = held.rfind(b"\n") + 1
            if cut <= len(held) // 2:  # a line that is longer than a piece is cut anywhere
                cut = len(held)
            yield held[:cut].decode("utf-8-sig", "replace")
            held = held[max(0, cut - OVERLAP) :]
        yield held.decode("utf-8", "replace")


def _header(path: Path) -> str:
    """All that comes before the tensors; of safetensors without the length, so that it reads as JSON."""
    with path.open("rb") as file:
        raw = file.read(header_size(path))
    return (raw[8:] if path.suffix.lower() == ".safetensors" else raw).decode("utf-8", "replace")


def _is_one_value(path: Path) -> bool:
    """Whether a large file is JSON that goes on after its first line, so that no line is a value of its own."""
    with path.open("rb") as file:
        line = file.readline(LARGEST_TEXT).decode("utf-8-sig", "replace").strip()
    if line[:1] not in ("{", "["):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError as error:  # at its end: more would follow; before it: no JSON, but `[INFO] …`
        return error.pos >= len(line) or error.msg.startswith("Unterminated string")
    except RecursionError:
        return True
    return False


def _strings(text: str) -> Iterator[str]:
    """The lines of a text, the whole paragraphs, and every string in lines or in a whole that is JSON."""
    yield from text.splitlines()
    yield from re.split(r"\n\s*\n", text)
    for candidate in (text, *text.splitlines()):
        if candidate.lstrip()[:1] in ("{", "["):
            try:
                yield from _values(json.loads(candidate))
            except (ValueError, RecursionError):
                continue


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield from value.splitlines()
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (key, *_values(each))
    elif isinstance(value, list):
        for each in value:
            yield from _values(each)


def _normal(text: str) -> str:
    """One spelling of a text: compatibility forms, case and white space do not count."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
