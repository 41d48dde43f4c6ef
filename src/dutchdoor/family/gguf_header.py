"""The header of a GGUF file: metadata and tensor infos, with every length checked against the file.

Format versions 2 and 3, little-endian (github.com/ggml-org/ggml/blob/master/docs/gguf.md). Reads no tensor
data and keeps no long arrays (a vocabulary is skipped, only its length is kept).
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dutchdoor.core import WeightsError

Scalar = int | float | bool | str

MOST_KEYS = 100_000
MOST_TENSORS = 200_000
LONGEST_NAME = 65_535  # bytes; the specification's limit for keys
LONGEST_TEXT = 16 << 20  # bytes; a chat template has some kB
MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
DEEPEST = 3  # arrays of arrays
SMALL = 4096  # bytes: what is skipped by reading on, without a system call

# number in the file → struct format of a metadata value
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# ggml type → name, elements a block, bytes a block (ggml/src/ggml.c and gguf-py's GGML_QUANT_SIZES)
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
_SIZES = {name: (block, width) for name, block, width in _TYPES.values()}
GGUF_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]
    type: str
    offset: int  # bytes from the start of the data

    @property
    def elements(self) -> int:
        total = 1
        for each in self.shape:
            total *= each
        return total

    @property
    def nbytes(self) -> int:
        block, width = _SIZES[self.type]
        return self.elements // block * width


@dataclass(frozen=True)
class GgufHeader:
    version: int
    metadata: dict[str, Scalar]
    lengths: dict[str, int]  # of arrays, which are not kept themselves
    tensors: tuple[GgufTensor, ...]
    data_begin: int  # bytes from the start of the file

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_gguf(path: Path) -> GgufHeader:
    """Metadata and tensors.

    Raises WeightsError, naming the file, when it is truncated or not what it says.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file, path.stat().st_size).header()
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror}") from error


class _Reader:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.at = 0  # kept by hand: asking the file costs a system call, and vocabularies have 100,000 items

    def header(self) -> GgufHeader:
        if self._take(4) != b"GGUF":
            raise self._broken("it doesn't begin with GGUF")
        version = int(self._number("I"))
        if version not in (2, 3):
            raise self._broken(f"its format version is {version}; 2 and 3 are read")
        tensors, keys = int(self._number("Q")), int(self._number("Q"))
        if tensors > MOST_TENSORS or keys > MOST_KEYS:
            raise self._broken(f"it claims {tensors} tensors and {keys} metadata keys")
        metadata: dict[str, Scalar] = {}
        lengths: dict[str, int] = {}
        for _ in range(keys):
            key = self._text(LONGEST_NAME)
            if key in metadata or key in lengths:
                raise self._broken(f"the metadata key {key[:80]!r} is given twice")
            kind = int(self._number("I"))
            if kind == _ARRAY:
                lengths[key] = self._skip_array(0)
            else:
                metadata[key] = self._value(kind)
        parts = metadata.get("split.count")
        if isinstance(parts, int) and parts > 1:  # the rest would be run, and neither digested nor packed
            raise WeightsError(
                f"{self.path} is one of {parts} parts of a model",
                hint="merge them first: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf",
            )
        infos = [self._tensor() for _ in range(tensors)]
        begin = self._check_data(metadata, infos)
        return GgufHeader(version, metadata, lengths, tuple(infos), begin)

    def _take(self, count: int) -> bytes:
        self._advance(count)
        return self.file.read(count)

    def _advance(self, count: int) -> None:
        if count > self.size - self.at:
            raise self._broken("it ends in the middle of its header: the file is truncated")
        self.at += count

    def _number(self, form: str) -> Scalar:
        value: Scalar = struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]
        return value

    def _text(self, limit: int) -> str:
        length = int(self._number("Q"))
        if length > limit:
            raise self._broken(f"a text in its header claims {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _value(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self._text(LONGEST_TEXT)
        if kind not in _SCALARS:
            raise self._broken(f"a metadata value has the unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _skip_array(self, depth: int) -> int:
        kind, count = int(self._number("I")), int(self._number("Q"))
        if depth >= DEEPEST:
            raise self._broken("arrays in its metadata are nested too deeply")
        if kind in _SCALARS:
            self._skip(count * struct.calcsize("<" + _SCALARS[kind]))
        elif kind in (_STRING, _ARRAY):
            if count > self.size // 8:  # each item has a length of eight bytes at least
                raise self._broken(f"an array in its metadata claims {count} items")
            for _ in range(count):
                if kind == _STRING:
                    self._skip(int.from_bytes(self._take(8), "little"))
                else:
                    self._skip_array(depth + 1)
        else:
            raise self._broken(f"a metadata array has the unknown type {kind}")
        return count

    def _skip(self, count: int) -> None:
        self._advance(count)
        if count <= SMALL:
            self.file.read(count)
        else:
            self.file.seek(count, 1)

    def _tensor(self) -> GgufTensor:
        name = self._text(LONGEST_NAME)
        dimensions = int(self._number("I"))
        if dimensions > MOST_DIMENSIONS:
            raise self._broken(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(int(self._number("Q")) for _ in range(dimensions))
        kind, offset = int(self._number("I")), int(self._number("Q"))
        if kind not in _TYPES:
            raise self._broken(f"the tensor {name[:80]!r} has the unknown type {kind}")
        return GgufTensor(name, shape, _TYPES[kind][0], offset)

    def _check_data(self, metadata: dict[str, Scalar], tensors: list[GgufTensor]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or isinstance(alignment, bool) or not 0 < alignment <= 1 << 20:
            raise self._broken(f"its alignment is {alignment}")
        begin = -(-self.at // alignment) * alignment
        seen: set[str] = set()
        at = 0
        for tensor in sorted(tensors, key=lambda each: each.offset):
            block, _ = _SIZES[tensor.type]
            if tensor.name in seen:
                raise self._broken(f"the tensor {tensor.name[:80]!r} is given twice")
            seen.add(tensor.name)
            if tensor.elements % block or tensor.elements <= 0:
                raise self._broken(
                    f"the tensor {tensor.name[:80]!r} has no shape that {tensor.type} can hold"
                )
            if tensor.offset < at:
                raise self._broken(f"the tensor {tensor.name[:80]!r} overlaps another")
            at = tensor.offset + tensor.nbytes
            if begin + at > self.size:
                raise self._broken(
                    f"the tensor {tensor.name[:80]!r} ends at byte {begin + at} of {self.size}: truncated"
                )
        return begin

    def _broken(self, why: str) -> WeightsError:
        return WeightsError(f"{self.path} is broken: {why}", hint="download or convert it again")
