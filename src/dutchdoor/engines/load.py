"""Opens a model on this machine: which engine takes it, and why not the fast one where it cannot.

A GGUF goes to llama.cpp as it is. A Hugging Face folder is written as GGUF once, into `cache/gguf/`, named by
the digest of what it was made from; where that cannot be done right, transformers serves it and
`info.because` says why.
"""

import asyncio
import os
from pathlib import Path
from typing import Literal

from dutchdoor.core import EngineError, UsageError, WeightsError, digest_value
from dutchdoor.engines.interface import Engine, NotTakenError
from dutchdoor.family.gguf_header import read_gguf
from dutchdoor.family.weights import variant_digest

CONVERTER = 1  # part of the cached file's name: raise it when what is written changes
# bytes of weights that one thread computes as fast as several that wait for each other
ALONE_BELOW = 32 << 20
F32_FILE = 0  # gguf.LlamaFileType.ALL_F32


async def open_engine(
    path: Path,
    *,
    threads: int | None = None,
    parallel: int = 8,
    cache: Path,
    prefer: Literal["fast", "transformers"] | None = None,
) -> Engine:
    """The engine for a .gguf file, a Hugging Face folder, or a folder that holds one GGUF.

    `threads`: null means all physical cores, or one for weights under 32 MiB. `parallel`: how many answers
    are worked on at once. `cache`: where converted weights and digests are kept. `prefer="fast"` fails where
    the fast engine cannot take the model, `"transformers"` is for folders only. Use an engine in the event
    loop that opened it, and close it. Raises WeightsError where there is no model or it is broken,
    MissingExtraError where an engine is not installed.
    """
    path = await asyncio.to_thread(model_at, path)
    if path.suffix == ".gguf":
        if prefer == "transformers":
            raise UsageError(f"{path} is a GGUF, which only the fast engine reads")
        from dutchdoor.engines.llama_cpp import open_llama_cpp

        workers = await asyncio.to_thread(_threads_for, path, threads)
        return await open_llama_cpp(path, threads=workers, parallel=parallel, model=path.stem)
    because = "it was asked for"
    if prefer != "transformers":
        try:
            return await _open_fast(path, threads, parallel, cache)
        except NotTakenError as reason:
            because = str(reason)
            if prefer == "fast":
                raise EngineError(f"the fast engine cannot take {path}: {reason}") from reason
    from dutchdoor.engines.torch_engine import open_transformers

    return await open_transformers(path, threads=threads or cores(), parallel=parallel, because=because)


def model_at(path: Path) -> Path:
    """The .gguf file or the Hugging Face folder meant by a path, resolved. Raises WeightsError."""
    path = path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise WeightsError(f"{path} is no GGUF file", hint="name a .gguf file or a Hugging Face folder")
        return path
    if not path.is_dir():
        raise WeightsError(f"there is no model at {path}", hint="name a .gguf file or a Hugging Face folder")
    if (path / "config.json").is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        what = "several GGUF files" if found else "no config.json and no GGUF"
        raise WeightsError(f"{path} holds {what}", hint="name a .gguf file or a Hugging Face folder")
    return found[0]


async def _open_fast(path: Path, threads: int | None, parallel: int, cache: Path) -> Engine:
    from dutchdoor.engines.llama_cpp import open_llama_cpp
    from dutchdoor.engines.prompts import FolderPrompts

    made = await asyncio.to_thread(_converted, path, cache)
    workers = await asyncio.to_thread(_threads_for, made, threads)
    prompts = await asyncio.to_thread(FolderPrompts, path)
    exact = await asyncio.to_thread(lambda: read_gguf(made).number("general.file_type") == F32_FILE)
    return await open_llama_cpp(
        made, threads=workers, parallel=parallel, model=path.name, prompts=prompts, exact=exact
    )


def _converted(path: Path, cache: Path) -> Path:
    """The cached GGUF of a folder, written if it is not there. Raises EngineError where it can't be."""
    try:
        return _found_or_made(path, cache)
    except OSError as error:
        named = str(error.filename or cache)  # a full disk is told without a name
        if not Path(named).is_relative_to(cache) and not cache.is_relative_to(named):
            raise  # about the weights, not about us
        raise EngineError(
            f"the cache folder {cache} cannot be written to: {error.strerror or error}",
            hint="name another: --data where the command has it, else the environment variable XDG_CACHE_HOME",
        ) from error


def _found_or_made(path: Path, cache: Path) -> Path:
    from dutchdoor.engines.gguf_convert import convert

    cache.mkdir(parents=True, exist_ok=True)
    digest = variant_digest(path, cache / "digests.json")
    name = digest_value({"weights": digest, "converter": CONVERTER}).removeprefix("sha256:")
    made = cache / "gguf" / f"{name}.gguf"
    if not made.is_file():
        convert(path, made)
    return made


def _threads_for(weights: Path, asked: int | None) -> int:
    if asked is not None:
        return asked
    return 1 if weights.stat().st_size < ALONE_BELOW else cores()


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
