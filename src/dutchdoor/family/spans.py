"""Where each tensor's bytes lie in a .safetensors or .gguf file."""

from dataclasses import dataclass
from pathlib import Path

from dutchdoor.family.files import refused
from dutchdoor.family.gguf_header import read_gguf
from dutchdoor.family.safetensors_header import read_safetensors


@dataclass(frozen=True)
class TensorSpan:
    """Where a tensor's bytes lie in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    nbytes: int


def tensors(path: Path) -> tuple[TensorSpan, ...]:
    """The tensors of one .safetensors or .gguf file, in the order they lie there. Raises WeightsError."""
    if path.suffix.lower() == ".gguf":
        header = read_gguf(path)
        spans = [
            TensorSpan(each.name, each.type, each.shape, header.data_begin + each.offset, each.nbytes)
            for each in header.tensors
        ]
    elif path.suffix.lower() == ".safetensors":
        begin = header_size(path)
        spans = [
            TensorSpan(name, each.dtype, each.shape, begin + each.begin, each.end - each.begin)
            for name, each in read_safetensors(path).items()
        ]
    else:
        raise refused(path)
    return tuple(sorted(spans, key=lambda each: each.offset))


def header_size(path: Path) -> int:
    """How many bytes of a .safetensors or .gguf file come before the first tensor's data."""
    if path.suffix.lower() == ".gguf":
        return read_gguf(path).data_begin
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")
