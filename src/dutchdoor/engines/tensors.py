"""Reads the tensors of a safetensors folder, one at a time, without torch.

Knows f32, f16 and bf16. The headers are read, and their bounds checked, by `dutchdoor.family.weights`.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dutchdoor.core import WeightsError
from dutchdoor.engines.interface import NotTakenError
from dutchdoor.family.weights import TensorSpan, tensors, variant_files

Array = NDArray[Any]
STORED_AS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Stored(msgspec.Struct, frozen=True):
    """A tensor in a file."""

    path: Path
    span: TensorSpan

    @property
    def dtype(self) -> str:
        return self.span.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.span.shape

    @property
    def elements(self) -> int:
        return int(np.prod(self.span.shape, dtype=np.int64))

    def raw(self) -> Array:
        """As stored; bf16 as its 16 bits in uint16."""
        flat = np.fromfile(
            self.path, dtype=STORED_AS[self.dtype], count=self.elements, offset=self.span.offset
        )
        return flat.reshape(self.shape)

    def f32(self) -> NDArray[np.float32]:
        """In float32: exact, since each of the three formats is a subset of it."""
        raw = self.raw()
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False)


def read_tensors(folder: Path) -> dict[str, Stored]:
    """{name: where it lies} over all safetensors files of a Hugging Face folder.

    Raises WeightsError for broken files, NotTakenError for formats that are not known.
    """
    found: dict[str, Stored] = {}
    for name, path in variant_files(folder).items():
        if not name.endswith(".safetensors"):
            continue
        for span in tensors(path):
            if span.dtype not in STORED_AS:
                raise NotTakenError(f"{span.name} is stored as {span.dtype}")
            if span.name in found:
                raise WeightsError(f"{path} holds {span.name} a second time")
            found[span.name] = Stored(path, span)
    return found
