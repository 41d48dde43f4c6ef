"""The control tokens of a GGUF: texts that a message must not smuggle in.

All else in a GGUF's header is read by `dutchdoor.family.gguf_header`, which skips long arrays; these are two
of them.
"""

import mmap
import struct
from pathlib import Path

from dutchdoor.core import WeightsError

TOKENS, TYPES = b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_type"
CONTROL = 3  # gguf.TokenType.CONTROL
STRINGS, INT32 = 8, 5  # GGUF value types
MOST_TOKENS = 4_000_000


def control_tokens(path: Path) -> tuple[str, ...]:
    """The texts of all control tokens; empty where the file has no vocabulary. Raises WeightsError."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            at = _array(data, TYPES, INT32)
            if at is None:
                return ()
            start, count = at
            types = struct.unpack_from(f"<{count}i", data, start)
            at = _array(data, TOKENS, STRINGS)
            if at is None or at[1] != count:
                return ()
            return tuple(_texts(data, at[0], [kind == CONTROL for kind in types]))
        except (struct.error, MemoryError) as error:
            raise WeightsError(f"{path} has a broken vocabulary") from error


def _array(data: mmap.mmap, key: bytes, kind: int) -> tuple[int, int] | None:
    """(where the first item lies, how many there are) of an array in the header; null where it is not there."""
    named = struct.pack("<Q", len(key)) + key + struct.pack("<II", 9, kind)  # 9: array
    at = data.find(named)
    if at < 0:
        return None
    at += len(named)
    (count,) = struct.unpack_from("<Q", data, at)
    return (at + 8, count) if count <= MOST_TOKENS else None


def _texts(data: mmap.mmap, at: int, wanted: list[bool]) -> list[str]:
    found = []
    for take in wanted:
        (size,) = struct.unpack_from("<Q", data, at)
        at += 8
        if size > len(data) - at:
            raise struct.error("a text leaves the file")
        if take:
            found.append(data[at : at + size].decode("utf-8", errors="replace"))
        at += size
    return found
