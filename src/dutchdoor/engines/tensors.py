"""Reads the tensors of a safetensors folder, one at a time, without torch.

Knows f32, f16 and bf16; refuses everything else, and headers that point outside their file.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dutchdoor.core import WeightsError

Array = NDArray[Any]
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
MOST_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself


class Stored(msgspec.Struct, frozen=True):
    """Where a tensor lies: bytes [start, start + size) of a file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def raw(self) -> Array:
        """As stored; bf16 as its 16 bits in uint16."""
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        flat = np.fromfile(self.path, dtype=kind, count=self.elements, offset=self.start)
        return flat.reshape(self.shape)

    def f32(self) -> NDArray[np.float32]:
        """In float32: exact, since each of the three formats is a subset of it."""
        raw = self.raw()
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False)


def read_tensors(folder: Path) -> dict[str, Stored]:
    """{name: where it lies} over all safetensors files of a Hugging Face folder."""
    found: dict[str, Stored] = {}
    for path in _files(folder):
        for name, stored in _header(path):
            if name in found:
                raise WeightsError(f"{path.name} holds {name} a second time")
            found[name] = stored
    return found


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = {str(name) for name in msgspec.json.decode(index.read_bytes())["weight_map"].values()}
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{index} is no safetensors index") from error
        if any(Path(name).name != name for name in names):
            raise WeightsError(f"{index} names files outside its folder")
        files = [folder / name for name in sorted(names)]
    else:
        files = [folder / "model.safetensors"]
    for path in files:
        if not path.is_file():
            raise WeightsError(
                f"{path} is missing", hint="only safetensors and GGUF are read; download the missing file"
            )
    return files


def _header(path: Path) -> Iterator[tuple[str, Stored]]:
    length = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if length < 8 or size > min(length - 8, MOST_HEADER_BYTES):
            raise WeightsError(f"{path} is truncated or no safetensors file")
        try:
            header = msgspec.json.decode(file.read(size), type=dict[str, dict[str, Any]])
        except msgspec.DecodeError as error:
            raise WeightsError(f"{path} has a broken header: {error}") from error
    for name, row in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, offsets = row.get("dtype"), row.get("shape"), row.get("data_offsets")
        if dtype not in ITEM_BYTES:
            raise WeightsError(f"{path.name}: {name} is {dtype}; known are {', '.join(ITEM_BYTES)}")
        if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
            raise WeightsError(f"{path} has a broken header at {name}")
        stored = Stored(path, dtype, tuple(shape), 8 + size + offsets[0], offsets[1] - offsets[0])
        if (
            stored.size != stored.elements * ITEM_BYTES[dtype]
            or offsets[0] < 0
            or 8 + size + offsets[1] > length
        ):
            raise WeightsError(f"{path} is truncated at {name}")
        yield name, stored
