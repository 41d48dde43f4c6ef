"""Weights files written by hand, so that each number in a header can be wrong on purpose."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U8": 1}

Shapes = Mapping[str, tuple[int, ...]]
LLAMA: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (8, 4),
    "model.norm.weight": (4,),
}  # 36 parameters


def size(shape: tuple[int, ...]) -> int:
    total = 1
    for each in shape:
        total *= each
    return total


def safetensors_header(shapes: Shapes, dtype: str = "BF16") -> dict[str, Any]:
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        end = at + size(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header


def safetensors_bytes(header: Any, data: bytes | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    if data is None:
        data = bytes(max((row["data_offsets"][1] for row in header.values()), default=0))
    return struct.pack("<Q", len(raw)) + raw + data


def write_folder(
    folder: Path,
    shapes: Shapes = LLAMA,
    *,
    dtype: str = "BF16",
    fill: int = 0,
    template: bool = True,
    **config: Any,
) -> Path:
    """A model folder: config, tokenizer stand-ins, and one safetensors file filled with one byte."""
    folder.mkdir(parents=True, exist_ok=True)
    header = safetensors_header(shapes, dtype)
    length = max(row["data_offsets"][1] for row in header.values())
    (folder / "model.safetensors").write_bytes(safetensors_bytes(header, bytes([fill]) * length))
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 128,
    } | config
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text("{}")
    if template:
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_key(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return text(name) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(each) for each in value)
    return text(name) + struct.pack("<II", 4, value)


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]],  # shape, ggml type, bytes
    *,
    version: int = 3,
    keys: int | None = None,
    short: int = 0,
    offsets: Mapping[str, int] | None = None,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata) if keys is None else keys)
    head += b"".join(gguf_key(name, value) for name, value in metadata.items())
    at, infos = 0, b""
    for name, (shape, kind, width) in tensors.items():
        offset = (offsets or {}).get(name, at)
        infos += (
            text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", each) for each in shape)
        )
        infos += struct.pack("<IQ", kind, offset)
        at += -(-width // 32) * 32
    head += infos
    head += bytes(-len(head) % 32)
    return head + bytes(max(at - short, 0))


GGUF_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "general.license": "apache-2.0",
    "llama.context_length": 256,
    "tokenizer.ggml.tokens": ["a", "b"],
    "tokenizer.chat_template": "{{ messages }}",
}
Q8_0 = 8


def write_gguf(path: Path, **metadata: Any) -> Path:
    """A GGUF file with 64 + 32 parameters, most of them Q8_0."""
    tensors = {"token_embd.weight": ((32, 2), Q8_0, 68), "output_norm.weight": ((32,), 0, 128)}
    path.write_bytes(gguf_bytes(GGUF_METADATA | metadata, tensors))
    return path
