"""What a GGUF file says about itself: scalars, and the texts of its control tokens.

Bounds-checked; reads the header only. Weights are never read here.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import WeightsError

MAGIC = b"GGUF"
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_CONTROL = 3
MOST_KEYS = 1 << 16


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """`scalars` holds every number and text by its key; arrays other than the tokens are left out."""

    scalars: dict[str, Any]
    control_tokens: tuple[str, ...]
    head_counts_kv: tuple[int, ...] = ()  # where it differs from layer to layer

    @property
    def architecture(self) -> str:
        return str(self.scalars.get("general.architecture", "unknown"))

    def number(self, key: str, default: int = 0) -> int:
        """An integer under the architecture's own name."""
        value = self.scalars.get(f"{self.architecture}.{key}", default)
        return int(value) if isinstance(value, (int, float)) else default


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file. Raises WeightsError where it is truncated or no GGUF."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(data, path).header()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise WeightsError(f"{path} is truncated or no GGUF file") from error


class _Cursor:
    """Walks the header; every read checks the file's end through struct."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def header(self) -> GgufHeader:
        if self.data[:4] != MAGIC:
            raise WeightsError(f"{self.path} is no GGUF file")
        self.at = 4
        version = self.scalar("<I")
        if version not in (2, 3):
            raise WeightsError(f"{self.path} is GGUF version {version}; known are 2 and 3")
        _tensors, keys = self.scalar("<Q"), self.scalar("<Q")
        if keys > MOST_KEYS:
            raise WeightsError(f"{self.path} is truncated or no GGUF file")
        scalars: dict[str, Any] = {}
        tokens: list[str] = []
        types: list[int] = []
        counts: list[int] = []
        for _ in range(keys):
            key, kind = self.string(), self.scalar("<I")
            if kind != _ARRAY:
                scalars[key] = self.value(kind)
            elif key == "tokenizer.ggml.tokens":
                tokens = self.array()
            elif key == "tokenizer.ggml.token_type":
                types = self.array()
            elif key.endswith(".attention.head_count_kv"):
                counts = self.array()
            else:
                self.array(keep=False)
        control = tuple(text for text, kind in zip(tokens, types, strict=False) if kind == _CONTROL)
        return GgufHeader(scalars=scalars, control_tokens=control, head_counts_kv=tuple(counts))

    def scalar(self, form: str) -> Any:
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def string(self) -> str:
        size = self.scalar("<Q")
        if self.at + size > len(self.data):
            raise IndexError(self.at)
        text = self.data[self.at : self.at + size].decode("utf-8", errors="replace")
        self.at += size
        return text

    def value(self, kind: int) -> Any:
        return (
            self.string()
            if kind == _STRING
            else self.scalar(_SCALARS[kind])
            if kind in _SCALARS
            else self.fail()
        )

    def array(self, *, keep: bool = True) -> list[Any]:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind in _SCALARS:
            size = struct.calcsize(_SCALARS[kind])
            if self.at + size * count > len(self.data):
                raise IndexError(self.at)
            start, self.at = self.at, self.at + size * count
            return list(struct.unpack_from(f"<{count}{_SCALARS[kind][1]}", self.data, start)) if keep else []
        if kind != _STRING:
            self.fail()
        found: list[Any] = []
        for _ in range(count):
            text = self.string()
            if keep:
                found.append(text)
        return found

    def fail(self) -> Any:
        raise WeightsError(f"{self.path} is truncated or no GGUF file")
