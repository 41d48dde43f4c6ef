"""Which files are a variant's bytes, and their digest.

Refuses pickles, because reading one can run whatever it says, links that leave the folder, and an index that
names shards which aren't there.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import WeightsError, digest_file, digest_tree

LARGEST_JSON = 64 << 20  # bytes; the largest tokenizer.json in the wild has some 35 MB
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".joblib", ".npz"})
# what decides how a folder answers, besides *.safetensors
DECISIVE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "adapter_config.json",
)


def variant_files(path: Path) -> dict[str, Path]:
    """The files that count as a variant's bytes, by name; of a folder those that decide how it answers.

    Raises WeightsError when there are no weights, when only pickles are there, or when a link leaves the
    folder.
    """
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise refused(path)
        return {path.name: path}
    if not path.is_dir():
        raise WeightsError(f"there are no weights at {path}", hint="give a model folder or a .gguf file")
    names = [name for name in DECISIVE if (path / name).exists() or (path / name).is_symlink()]
    weights = _weight_files(path)
    templates = [f"chat_templates/{each.name}" for each in sorted((path / "chat_templates").glob("*.jinja"))]
    found = {name: path / name for name in sorted([*names, *weights, *templates])}
    for each in found.values():
        _stays_inside(each, path)
    return found


def variant_digest(path: Path, cache: Path | None = None) -> str:
    """The digest of a variant's bytes: `digest_tree` of the SHA-256 of each file that counts.

    `cache` is a JSON file with digests by path, size, mtime and inode, so that large weights are hashed once.
    """
    known = _read_cache(cache)
    digests: dict[str, str] = {}
    changed = False
    for name, file in variant_files(path).items():
        key = str(file.resolve())
        stamp = _stamp(file)
        held = known.get(key)
        if held is None or held[0] != stamp:
            held = (stamp, digest_file(file))
            if _stamp(file) == stamp:  # it wasn't written to while it was hashed
                known[key], changed = held, True
        digests[name] = held[1]
    if cache is not None and changed:
        _write_cache(cache, known)
    return digest_tree(digests)


def _weight_files(folder: Path) -> list[str]:
    """The safetensors of a folder: those its index names, or all at its root. Raises where there are none."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise WeightsError(f"{index} names no shards")
        names = sorted({str(each) for each in shards.values()})
        for name in names:
            if name != Path(name).name or not name.endswith(".safetensors"):
                raise WeightsError(
                    f"{index} names a shard outside its folder, or no safetensors: {name[:80]!r}"
                )
            if not (folder / name).exists():
                raise WeightsError(
                    f"{folder / name} is missing; {index.name} names it", hint="download the folder again"
                )
        stray = folder / "model.safetensors"
        if stray.exists() and stray.name not in names:  # transformers would load it in place of the shards
            raise WeightsError(
                f"{stray} lies beside an index that does not name it, so it is not clear which are the weights",
                hint="remove whichever is left over from an earlier save",
            )
        return names
    names = sorted(each.name for each in folder.glob("*.safetensors"))
    if names:
        return names
    pickles = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in PICKLES)
    if pickles:
        raise refused(folder / pickles[0])
    ggufs = sorted(each.name for each in folder.glob("*.gguf"))
    hint = (
        f"name the file itself: {folder / ggufs[0]}"
        if ggufs
        else "a model folder holds config.json and *.safetensors"
    )
    raise WeightsError(f"there are no safetensors in {folder}", hint=hint)


def refused(path: Path) -> WeightsError:
    if path.suffix.lower() in PICKLES:
        return WeightsError(
            f"{path} may be a pickle, and reading one can run code",
            hint="convert it to safetensors: model.save_pretrained(FOLDER, safe_serialization=True)",
        )
    return WeightsError(
        f"{path} is neither a model folder nor a .gguf file", hint="give the folder that holds config.json"
    )


def _stays_inside(file: Path, folder: Path) -> None:
    """A link that leaves the folder brings in bytes that nobody named.

    (The hub's own cache links to its blobs.)
    """
    real = file.resolve()
    if not real.is_file():
        raise WeightsError(f"{file} is no file, or a link to nothing")
    home = folder.resolve()
    hub = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if not real.is_relative_to(home) and (hub is None or not real.is_relative_to(hub)):
        raise WeightsError(f"{file} is a link that leaves its folder", hint="copy the file into the folder")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises WeightsError when it is too large, broken or no object."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise WeightsError(f"{path} is larger than {LARGEST_JSON >> 20} MiB")
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON: {str(error)[:80]}") from error
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return value


_Stamp = tuple[int, int, int]


def _stamp(file: Path) -> _Stamp:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _read_cache(cache: Path | None) -> dict[str, tuple[_Stamp, str]]:
    if cache is None or not cache.exists():
        return {}
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, tuple[_Stamp, str]])
    except (msgspec.MsgspecError, OSError):  # a broken cache costs time, never correctness
        return {}


def _write_cache(cache: Path, known: dict[str, tuple[_Stamp, str]]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=cache.parent, prefix=".digests-")
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(known))
    Path(name).replace(cache)
