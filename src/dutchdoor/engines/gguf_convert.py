"""A Hugging Face folder written as one GGUF, for the embedded engine.

The file is a cache: made from the folder's bytes, never shipped. Weights are written as f32 while they stay
small, since llama.cpp rounds activations to the weights' format otherwise and would disagree with
transformers; larger ones keep bf16 or f16 as they are.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from dutchdoor.core import MissingExtraError, WeightsError
from dutchdoor.engines.chat_format import read_json
from dutchdoor.engines.gguf_shapes import Config, Facts, Shape, shape_of
from dutchdoor.engines.gguf_vocab import Vocabulary, vocabulary
from dutchdoor.engines.interface import NotTakenError
from dutchdoor.engines.tensors import Array, Stored, read_tensors

MOST_F32_BYTES = 2 << 30  # up to half a billion parameters are held in f32: docs/adr/030-embedded-engine.md


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    architecture: str
    dtype: str  # F32, BF16 or F16
    context_length: int


def convert(folder: Path, out: Path) -> Converted:
    """Write `out` from a Hugging Face folder. Blocking; a few seconds per GB.

    Raises NotTakenError (with the reason) where llama.cpp would not compute what transformers does,
    WeightsError where the folder is broken. `out` appears whole or not at all.
    """
    config = read_json(folder / "config.json")
    if not config:
        raise WeightsError(f"{folder} has no config.json", hint="name a Hugging Face folder or a .gguf file")
    if not (folder / "tokenizer.json").is_file():
        raise NotTakenError("it has no tokenizer.json")
    shape = shape_of(config)
    try:
        facts = shape.facts(config)
    except (KeyError, TypeError, ValueError) as error:
        raise NotTakenError(f"its config.json lacks or garbles {error}") from error
    tensors = read_tensors(folder)
    ends = end_tokens(folder)
    words = vocabulary(
        (folder / "tokenizer.json").read_text(encoding="utf-8"), int(config["vocab_size"]), ends
    )
    dtype = _dtype(tensors.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        _write(partial, shape, config, facts, words, ends, tensors, dtype)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return Converted(architecture=shape.arch, dtype=dtype, context_length=facts.context_length)


def end_tokens(folder: Path) -> tuple[int, ...]:
    """The tokens at which transformers ends an answer: generation_config.json's, else config.json's."""
    generation = folder / "generation_config.json"
    source = read_json(generation) if generation.is_file() else read_json(folder / "config.json")
    found = source.get("eos_token_id")
    if found is None:
        return ()
    return tuple(int(number) for number in (found if isinstance(found, list) else [found]))


def _dtype(tensors: Iterable[Stored]) -> str:
    rows = tuple(tensors)
    matrices = {row.dtype for row in rows if len(row.shape) > 1}
    small = 4 * sum(row.elements for row in rows) <= MOST_F32_BYTES
    return "F32" if small or len(matrices) != 1 else matrices.pop()


def _write(
    path: Path,
    shape: Shape,
    config: Config,
    facts: Facts,
    words: Vocabulary,
    ends: tuple[int, ...],
    tensors: Mapping[str, Stored],
    dtype: str,
) -> None:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("running a model", extra="local") from error
    writer = gguf.GGUFWriter(path, shape.arch)
    try:
        _write_facts(writer, shape, facts, config, dtype)
        _write_words(writer, words, ends)
        names = gguf.get_tensor_name_map(_arch(gguf, shape.arch), facts.keys["block_count"])
        plan: list[tuple[str, Stored]] = []
        for name, stored in tensors.items():
            target = _target(names, shape, config, name)
            if target is not None:
                plan.append((target, stored))
        kinds = gguf.GGMLQuantizationType
        for target, stored in plan:
            kind = "F32" if len(stored.shape) == 1 else dtype
            laid_out = _laid_out_shape(shape, target, stored)
            item = np.dtype(np.float32 if kind == "F32" else np.float16)
            writer.add_tensor_info(target, laid_out, item, stored.elements * item.itemsize, kinds[kind])
        for target, extra in facts.extra.items():
            writer.add_tensor_info(target, extra.shape, extra.dtype, extra.nbytes, kinds.F32)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for target, stored in plan:
            writer.write_tensor_data(_data(shape, config, target, stored, dtype))
        for extra in facts.extra.values():
            writer.write_tensor_data(extra)
    finally:
        writer.close()


def _arch(gguf: Any, name: str) -> Any:
    return next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)


def _target(names: Any, shape: Shape, config: Config, name: str) -> str | None:
    """The GGUF name of a tensor; null for what is left out."""
    if any(name.endswith(skipped) for skipped in shape.skip):
        return None
    if name == "lm_head.weight" and config.get("tie_word_embeddings"):
        return None  # the same as the embedding
    full = name if name.startswith((shape.prefix, "lm_head.")) else shape.prefix + name
    found = names.get_name(full, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise NotTakenError(f"it has a tensor that the fast engine has no place for: {name}")
    return str(found)


def _laid_out_shape(shape: Shape, target: str, stored: Stored) -> tuple[int, ...]:
    if shape.change is None or len(stored.shape) != 2:
        return stored.shape
    probe = np.broadcast_to(np.float32(0), stored.shape)  # no memory: only the new shape is asked for
    return stored.shape if shape.arch != "gpt2" else shape.change(target, probe, {}).shape


def _data(shape: Shape, config: Config, target: str, stored: Stored, dtype: str) -> Array:
    change = shape.change
    if len(stored.shape) == 1 or dtype == "F32":
        tensor = stored.f32()
        return np.ascontiguousarray(tensor if change is None else change(target, tensor, config))
    raw = stored.raw()
    if stored.dtype != dtype:
        raise NotTakenError("its weights are stored in several formats")
    return np.ascontiguousarray(
        raw if change is None else change(target, raw, config)
    )  # 2-D changes only move rows


def _write_facts(writer: Any, shape: Shape, facts: Facts, config: Config, dtype: str) -> None:
    writer.add_file_type({"F32": 0, "F16": 1, "BF16": 32}[dtype])  # gguf.LlamaFileType
    writer.add_context_length(facts.context_length)
    writer.add_vocab_size(int(config["vocab_size"]))
    for key, value in facts.keys.items():
        name = f"{shape.arch}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)


def _write_words(writer: Any, words: Vocabulary, ends: tuple[int, ...]) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.texts)
    writer.add_token_types(words.types)
    if words.model == "gpt2":
        writer.add_token_merges(words.merges)
    else:
        writer.add_token_scores(words.scores)
    writer.add_add_space_prefix(words.space_before)
    writer.add_add_bos_token(False)  # what the template does not write is not there
    for add, number in zip(
        (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), ends, strict=False
    ):
        add(number)
    unmarked = [words.texts[n] for n in ends[3:] if words.texts[n] not in _ends_by_name()]
    if unmarked:
        raise NotTakenError(
            f"it ends answers at more tokens than the fast engine can be told: {', '.join(unmarked)}"
        )


def _ends_by_name() -> frozenset[str]:
    from dutchdoor.engines.gguf_vocab import ENDS_BY_NAME

    return ENDS_BY_NAME
