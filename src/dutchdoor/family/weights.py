"""What lies in a model folder or a GGUF file, read from headers alone.

Counts parameters from tensor shapes, never from a name. Loads no tensor and runs no code. Every length and
offset in a header is checked against the file before it is used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dutchdoor.core import WeightsError
from dutchdoor.family import spdx
from dutchdoor.family.files import read_json, variant_digest, variant_files
from dutchdoor.family.gguf_header import GGUF_FLOATS, GgufHeader, read_gguf
from dutchdoor.family.safetensors_header import BITS, TensorHeader, read_safetensors
from dutchdoor.family.spans import TensorSpan, header_size, tensors

CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class WeightsFacts:
    """What the headers say.

    `parameters` counts each stored tensor once; `license` is what the file itself states.
    """

    format: Literal["safetensors", "gguf"]
    architecture: str | None  # "LlamaForCausalLM" of a folder, "llama" of a GGUF; null where nothing says
    parameters: int
    context_length: int | None  # tokens
    dtype: str  # of most parameters: BF16, F32, Q8_0 …
    quantised: bool
    license: str | None  # an SPDX id or expression
    name: str
    files: tuple[str, ...]
    has_chat_template: bool
    adapter: bool = False  # only changes to the weights of another model


def describe(path: Path) -> WeightsFacts:
    """Read the facts of a model folder or a .gguf file.

    Raises WeightsError, naming the file and what is wrong.
    """
    files = variant_files(path)
    if path.is_file():
        return _describe_gguf(path, read_gguf(path))
    return _describe_folder(path, files)


def _describe_folder(path: Path, files: dict[str, Path]) -> WeightsFacts:
    adapter = "adapter_config.json" in files and "config.json" not in files
    if not adapter and "config.json" not in files:
        raise WeightsError(
            f"there is no config.json in {path}", hint="give the folder that `save_pretrained` wrote"
        )
    config = read_json(files["adapter_config.json" if adapter else "config.json"])
    tensors = _tensors(path, files)
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    architectures = config.get("architectures")
    architecture = (
        str(architectures[0])
        if isinstance(architectures, list) and architectures
        else config.get("model_type")
    )
    by_dtype: dict[str, int] = {}
    for each in tensors.values():
        by_dtype[each.dtype] = by_dtype.get(each.dtype, 0) + each.elements
    quantised = "quantization_config" in config or any(dtype not in _FLOATS for dtype in by_dtype)
    parameters = (
        _packed(tensors, _packed_bits(config))
        if quantised
        else _count(tensors, bool(_first(config, text, "tie_word_embeddings")))
    )
    if parameters <= 0:
        raise WeightsError(f"there are no parameters in {path}")
    return WeightsFacts(
        format="safetensors",
        architecture=None if architecture is None else str(architecture),
        parameters=parameters,
        context_length=_context(config, text),
        dtype=max(by_dtype, key=lambda dtype: by_dtype[dtype]),
        quantised=quantised,
        license=_spdx(_readme_license(path)),
        name=path.resolve().name,
        files=tuple(files),
        has_chat_template=_has_template(path, files),
        adapter=adapter,
    )


def _tensors(path: Path, files: dict[str, Path]) -> dict[str, TensorHeader]:
    """All tensors of a folder.

    Raises when two shards hold the same one, or the index and the shards disagree.
    """
    found: dict[str, TensorHeader] = {}
    for name, file in files.items():
        if not name.endswith(".safetensors"):
            continue
        for tensor, header in read_safetensors(file).items():
            if tensor in found:
                raise WeightsError(
                    f"{file} holds the tensor {tensor!r}, which another file of {path} holds as well"
                )
            found[tensor] = header
    index = files.get("model.safetensors.index.json")
    if index is not None:
        listed = set(read_json(index)["weight_map"])
        if missing := sorted(listed - set(found)):
            raise WeightsError(f"{index} lists the tensor {missing[0]!r}, which no shard holds")
    if not found:
        raise WeightsError(f"there are no tensors in {path}")
    return found


def _count(tensors: dict[str, TensorHeader], tied: bool) -> int:
    """Parameters of full-precision tensors.

    A tied head that was stored all the same is the embedding again.
    """
    total = sum(
        each.elements
        for name, each in tensors.items()
        if each.dtype in _FLOATS and not _is_buffer(name, each)
    )
    head = next((each for name, each in tensors.items() if name.endswith("lm_head.weight")), None)
    body = [each for name, each in tensors.items() if name.endswith(("embed_tokens.weight", "wte.weight"))]
    if tied and head is not None and any(each.shape == head.shape for each in body):
        total -= head.elements
    return total


def _is_buffer(name: str, tensor: TensorHeader) -> bool:
    """What old checkpoints store and no training changes: GPT-2's causal masks, rotary frequencies."""
    mask = name.endswith(".attn.bias") and len(tensor.shape) == 4
    return mask or name.endswith((".attn.masked_bias", "rotary_emb.inv_freq"))


def _packed(tensors: dict[str, TensorHeader], bits: int) -> int:
    """Parameters of a quantised folder: packed integers hold several each, so that this is an upper bound.

    Every integer is taken as packed with weights of so many bits; scales count as well. A bound that is too
    high can only close a `parameters: at_most` rule.
    """
    return sum(
        each.elements
        if each.dtype in _FLOATS
        else each.elements * BITS[each.dtype] // min(bits, BITS[each.dtype])
        for each in tensors.values()
    )


def _packed_bits(config: dict[str, Any]) -> int:
    """The fewest bits a weight that the config's `quantization_config` speaks of; 1 where it does not say."""
    found: list[int] = []

    def look(value: Any) -> None:
        for key, each in value.items() if isinstance(value, dict) else ():
            if key in ("bits", "w_bit", "num_bits", "nbits") and type(each) is int and each > 0:
                found.append(each)
            elif each is True and key in ("load_in_4bit", "load_in_8bit"):
                found.append(4 if key == "load_in_4bit" else 8)
            look(each)

    look(config.get("quantization_config"))
    return min(found, default=1)


def _first(config: dict[str, Any], text: Any, key: str) -> Any:
    """A setting of the model, or of its language half where it has others."""
    value = config.get(key)
    return text.get(key) if value is None and isinstance(text, dict) else value


def _context(config: dict[str, Any], text: Any) -> int | None:
    for key in CONTEXT_KEYS:
        value = _first(config, text, key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _has_template(path: Path, files: dict[str, Path]) -> bool:
    if any(name.startswith(("chat_template", "chat_templates/")) for name in files):
        return True
    settings = files.get("tokenizer_config.json")
    return settings is not None and bool(read_json(settings).get("chat_template"))


def _readme_license(path: Path) -> str | None:
    """`license:` from the metadata block of README.md, as model hubs write it."""
    for name in ("README.md", "readme.md"):
        readme = path / name
        if readme.is_file():
            break
    else:
        return None
    with readme.open("rb") as file:
        text = file.read(64_000).decode("utf-8", "replace")
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        if line.startswith("license:"):
            return line.removeprefix("license:").strip().strip("'\"") or None
    return None


def _spdx(stated: str | None) -> str | None:
    """The SPDX id of what a hub's metadata states in lower case.

    Null where it is only `other` or unknown to us.
    """
    return None if stated is None else spdx.canonical(stated)


def _describe_gguf(path: Path, header: GgufHeader) -> WeightsFacts:
    architecture = header.text("general.architecture")
    context = header.number(f"{architecture}.context_length")
    by_type: dict[str, int] = {}
    for tensor in header.tensors:
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.elements
    if not by_type:
        raise WeightsError(f"there are no tensors in {path}")
    parameters = sum(t.elements for t in header.tensors if not t.name.startswith("rope_"))
    return WeightsFacts(
        format="gguf",
        architecture=architecture,
        parameters=parameters,
        context_length=context,
        dtype=max(by_type, key=lambda each: by_type[each]),
        quantised=any(each not in GGUF_FLOATS for each in by_type),
        license=_spdx(header.text("general.license")),
        name=header.text("general.name") or path.stem,
        files=(path.name,),
        has_chat_template=bool(header.text("tokenizer.chat_template")),
        adapter=header.text("general.type") == "adapter",
    )


def size_class(parameters: int) -> str:
    """A size that says no more than its order: "1B–10B". What a public form tells of closed weights."""
    steps = [
        (10**exponent, name)
        for exponent, name in (
            (6, "1M"),
            (7, "10M"),
            (8, "100M"),
            (9, "1B"),
            (10, "10B"),
            (11, "100B"),
            (12, "1T"),
        )
    ]
    below = [name for limit, name in steps if parameters >= limit]
    above = [name for limit, name in steps if parameters < limit]
    if not below:
        return f"below {above[0]}"
    return f"{below[-1]}–{above[0]}" if above else f"above {below[-1]}"


__all__ = [
    "TensorSpan",
    "WeightsFacts",
    "describe",
    "header_size",
    "read_json",
    "size_class",
    "tensors",
    "variant_digest",
    "variant_files",
]
