"""What kinds of file may leave: weights as safetensors and GGUF, the rest only if it can't run by itself.

Judges by name and by content. Refuses pickles (reading one runs what it says), programs, compiled code, and
links that leave their folder.
"""

import io
import pickletools
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from dutchdoor.core import BundleError, WeightsError
from dutchdoor.family.files import PICKLES
from dutchdoor.family.gguf_header import read_gguf
from dutchdoor.family.safetensors_header import read_safetensors

PROGRAMS = frozenset(
    {".exe", ".dll", ".so", ".dylib", ".pyc", ".pyd", ".pyo", ".o", ".a", ".class", ".jar", ".wasm"}
)
MAGICS = {
    b"\x7fELF": "a program (ELF)",
    b"MZ": "a program (PE)",
    b"\xfe\xed\xfa\xce": "a program (Mach-O)",
    b"\xfe\xed\xfa\xcf": "a program (Mach-O)",
    b"\xce\xfa\xed\xfe": "a program (Mach-O)",
    b"\xcf\xfa\xed\xfe": "a program (Mach-O)",
    b"\xca\xfe\xba\xbe": "a program (Mach-O or Java)",
    b"\0asm": "a program (WebAssembly)",
}
ARRAYS = frozenset({".npy"})  # NumPy's own format holds a pickle wherever the array holds objects
_PICKLE = re.compile(rb"\x80[\x02-\x05]")  # PROTO opcode, which every pickle since protocol 2 begins with
# of pickles without that opcode: what keeps a value, names a thing to import, and calls it
_KEEPS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
LARGEST_START = 1 << 20  # bytes that are looked at for such a pickle
MOST_OPCODES = 200  # what reads as so many in a row is no text
LEFT_BEHIND = frozenset(
    {"__pycache__", "node_modules"}
)  # and whatever begins with a dot: nobody means to publish it


def folder_files(path: Path) -> Iterator[tuple[str, Path]]:
    """The files of a component by relative name; a component that is one file has its own name.

    Raises BundleError for a link that leaves the folder, and for what is neither a file nor a folder.
    """
    if path.is_file():
        yield path.name, _inside(path, path.parent)
        return
    for found in sorted(path.rglob("*")):
        relative = found.relative_to(path)
        if any(part in LEFT_BEHIND or part.startswith(".") for part in relative.parts):
            continue
        real = _inside(found, path)
        if found.is_dir():
            if found.is_symlink():
                raise BundleError(f"{found} is a link to a folder", hint="copy the folder instead")
            continue
        yield relative.as_posix(), real


def _inside(found: Path, home: Path) -> Path:
    real = found.resolve()
    if not real.is_relative_to(home.resolve()):
        raise BundleError(f"{found} is a link that leaves its folder", hint="copy the file instead")
    if not real.exists() or not (stat.S_ISREG(real.stat().st_mode) or real.is_dir()):
        raise BundleError(f"{found} is neither a file nor a folder")
    return real


def require_safe(name: str, path: Path) -> None:
    """Raises BundleError or WeightsError for a file that may not be in a bundle, where it is `name`."""
    suffix = Path(name).suffix.lower()
    if suffix in PICKLES | ARRAYS:
        raise BundleError(
            f"{path} may be a pickle, and reading one can run code",
            hint="only safetensors and GGUF leave: convert it, or leave it out of the component",
        )
    if suffix in PROGRAMS or ".so." in name:
        raise BundleError(f"{path} is compiled code", hint="publish its source instead")
    try:
        if suffix == ".safetensors":
            read_safetensors(path)
        elif suffix == ".gguf":
            read_gguf(path)
        elif reason := _telling(path):
            raise BundleError(
                f"{path} is {reason}, whatever it is called", hint="leave it out of the component"
            )
    except OSError as error:
        raise WeightsError(f"can't read {path}: {error.strerror}") from error


def _telling(path: Path) -> str | None:
    """What a file's content shows it to be, where that may not leave."""
    with path.open("rb") as file:
        start = file.read(LARGEST_START)
    for magic, what in MAGICS.items():
        if start.startswith(magic):
            return what
    if start.startswith(b"\x93NUMPY"):
        return "a NumPy array, which may be a pickle"
    if _PICKLE.match(start) or _old_pickle(start):
        return "a pickle"
    if start.startswith(b"PK\3\4"):
        try:
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith(".pkl") for name in archive.namelist()):
                    return "a pickle in a zip (torch.save)"
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            return "a broken zip"
    return None


def _old_pickle(start: bytes) -> bool:
    """Whether bytes read as a pickle that doesn't say so at its beginning, as in protocols 0 and 1.

    A text can begin with a few valid opcodes. So either all of it is one value, as `pickle.dumps` writes it,
    or something is imported and called before the end, or there are very many opcodes in a row. A pickle of
    one bare number, which can run nothing, is a text like any other.
    """
    names: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an escape in a text that is no pickle is nobody's concern
        try:
            for count, (opcode, _, at) in enumerate(pickletools.genops(io.BytesIO(start))):
                names.add(opcode.name)
                runs = bool(names & _IMPORTS and names & _CALLS)
                if opcode.name == "STOP":
                    return runs or bool(names & _KEEPS and at == len(start) - 1)
                if count >= MOST_OPCODES and (runs or names & _KEEPS):
                    return True
        except ValueError:  # not an opcode, or not its argument
            return False
    return False
