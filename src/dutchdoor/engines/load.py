"""Opens a model on this machine: which engine takes it, and why not the fast one where it cannot.

A GGUF goes to llama.cpp as it is. A Hugging Face folder is written as GGUF once, into `cache/gguf/`, named by
the digest of what it was made from; where that cannot be done right, transformers serves it and
`info.because` says why.
"""

import asyncio
import os
from pathlib import Path
from typing import Any, Literal

from dutchdoor.core import EngineError, UsageError, WeightsError, digest_file, digest_tree
from dutchdoor.engines.gguf_shapes import NotTakenError
from dutchdoor.engines.interface import Engine

CONVERTER = "1"  # part of the cached file's name: raise it when what is written changes
READ_FROM_FOLDER = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors.index.json")


async def open_engine(
    path: Path,
    *,
    threads: int | None = None,
    parallel: int = 8,
    cache: Path,
    prefer: Literal["fast", "transformers"] | None = None,
) -> Engine:
    """The engine for a .gguf file or a Hugging Face folder.

    `threads`: null means all cores. `parallel`: how many answers are worked on at once. `cache`: where
    converted weights are kept. `prefer="fast"` fails where the fast engine cannot take the model,
    `"transformers"` uses it for folders. Raises WeightsError where there is no model or it is broken,
    MissingExtraError where an engine is not installed.
    """
    threads = threads or cores()
    if path.is_file():
        if path.suffix != ".gguf":
            raise WeightsError(f"{path} is no GGUF file", hint="name a .gguf file or a Hugging Face folder")
        if prefer == "transformers":
            raise UsageError(f"{path} is a GGUF, which only the fast engine reads")
        from dutchdoor.engines.llama_cpp import open_llama_cpp

        return await open_llama_cpp(path, threads=threads, parallel=parallel, model=path.stem)
    if not path.is_dir():
        raise WeightsError(f"there is no model at {path}")
    if not (path / "config.json").is_file():
        return await _only_gguf(path, threads=threads, parallel=parallel, cache=cache, prefer=prefer)
    because = "asked for" if prefer == "transformers" else None
    if prefer != "transformers":
        try:
            return await _open_fast(path, threads, parallel, cache)
        except NotTakenError as reason:
            because = str(reason)
            if prefer == "fast":
                raise EngineError(f"the fast engine cannot take {path}: {reason}") from reason
    from dutchdoor.engines.torch_engine import open_transformers

    return await open_transformers(path, threads=threads, parallel=parallel, because=because)


async def _only_gguf(path: Path, **options: Any) -> Engine:
    """A folder that holds one GGUF and no Hugging Face model."""
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        what = "several GGUF files" if found else "no config.json and no GGUF"
        raise WeightsError(f"{path} holds {what}", hint="name a .gguf file or a Hugging Face folder")
    return await open_engine(found[0], **options)


async def _open_fast(path: Path, threads: int, parallel: int, cache: Path) -> Engine:
    from dutchdoor.engines.gguf_convert import convert
    from dutchdoor.engines.llama_cpp import open_llama_cpp
    from dutchdoor.engines.prompts import FolderPrompts

    made = cache / "gguf" / f"{(await asyncio.to_thread(_digest, path)).removeprefix('sha256:')}.gguf"
    fresh = not made.is_file()
    if fresh:
        await asyncio.to_thread(convert, path, made)
    prompts = FolderPrompts(path)
    exact = await asyncio.to_thread(_is_f32, made)
    engine = await open_llama_cpp(
        made, threads=threads, parallel=parallel, model=path.resolve().name, prompts=prompts, exact=exact
    )
    return engine


def _is_f32(path: Path) -> bool:
    from dutchdoor.engines.gguf_header import read_header

    return bool(read_header(path).scalars.get("general.file_type", 0) == 0)


def _digest(path: Path) -> str:
    files = {name: digest_file(path / name) for name in READ_FROM_FOLDER if (path / name).is_file()}
    files |= {found.name: digest_file(found) for found in sorted(path.glob("*.safetensors"))}
    return digest_tree({**files, "converter": CONVERTER})


def cores() -> int:
    """Physical cores this process may use; hyper-threads add nothing to matrix products."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _physical() or allowed))


def _physical() -> int | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    pairs = set()
    package = ""
    for line in text.splitlines():
        if line.startswith("physical id"):
            package = line.rpartition(":")[2]
        elif line.startswith("core id"):
            pairs.add((package, line.rpartition(":")[2]))
    return len(pairs) or None
