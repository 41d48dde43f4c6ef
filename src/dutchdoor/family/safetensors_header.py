"""The header of a safetensors file, with every number checked before it is believed.

The format: eight bytes with the header's length (little-endian), a JSON object, then the data
(github.com/huggingface/safetensors). Refuses what its own reader refuses: ranges that overlap, leave gaps, do
not fit the shape, or do not end where the file ends.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dutchdoor.core import WeightsError

LARGEST_HEADER = 100_000_000  # bytes; the limit of the reference reader
LARGEST_RANK = 16
BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the data
    end: int

    @property
    def elements(self) -> int:
        total = 1
        for each in self.shape:
            total *= each
        return total


def read_safetensors(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a file by name.

    Raises WeightsError, naming the file, when it is truncated or not what it says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise _broken(path, "it is shorter than a header")
            length = int.from_bytes(start, "little")
            if length > LARGEST_HEADER or length > size - 8:
                raise _broken(path, f"its header claims {length} bytes, the file has {size}")
            raw = file.read(length)
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror}") from error
    tensors = _parse(path, raw)
    _check_ranges(path, tensors, size - 8 - length)
    return tensors


def _parse(path: Path, raw: bytes) -> dict[str, TensorHeader]:
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is no JSON object: {str(error)[:80]}") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is no JSON object")
    return {name: _tensor(path, name, row) for name, row in header.items() if name != "__metadata__"}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _tensor(path: Path, name: str, row: Any) -> TensorHeader:
    shown = name[:80]
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"the tensor {shown!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _broken(path, f"the tensor {shown!r} has the unknown dtype {str(dtype)[:20]!r}")
    if not _counts(shape) or len(shape) > LARGEST_RANK:
        raise _broken(path, f"the tensor {shown!r} has no valid shape")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"the tensor {shown!r} has no valid data_offsets")
    tensor = TensorHeader(dtype, tuple(shape), offsets[0], offsets[1])
    if tensor.elements * BITS[dtype] != (tensor.end - tensor.begin) * 8:
        raise _broken(
            path, f"the tensor {shown!r} has {tensor.end - tensor.begin} bytes, its shape needs others"
        )
    return tensor


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**63 for each in value)


def _check_ranges(path: Path, tensors: dict[str, TensorHeader], room: int) -> None:
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.end > room:
            raise _broken(
                path, f"the tensor {name[:80]!r} ends at byte {tensor.end} of {room}: the file is truncated"
            )
        if tensor.begin != at:
            what = "overlaps another" if tensor.begin < at else "leaves a gap before it"
            raise _broken(path, f"the tensor {name[:80]!r} {what}")
        at = tensor.end
    if at != room:  # bytes that no tensor owns could carry anything
        raise _broken(path, f"{room - at} bytes after the last tensor belong to nothing")


def _broken(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is broken: {why}", hint="download or save it again")
