"""How each known architecture of Hugging Face maps onto llama.cpp's: one row each.

A row names what llama.cpp needs to be told and how tensors are laid out differently. A setting that llama.cpp
computes otherwise than transformers raises `NotTakenError`, so that such a model is served through
transformers instead of wrongly. Every row is checked in tests against transformers (log-probabilities within
1e-3 in f32).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from dutchdoor.engines.interface import NotTakenError

F32 = NDArray[np.float32]
Config = Mapping[str, Any]


class Facts(msgspec.Struct, kw_only=True):
    """What llama.cpp is told about a model: GGUF keys under the architecture's name, and extra tensors."""

    keys: dict[str, int | float | str | bool | list[int]]
    extra: dict[str, Any] = {}
    context_length: int


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """One architecture."""

    arch: str  # llama.cpp's name
    facts: Callable[[Config], Facts]
    change: Callable[[str, F32, Config], F32] | None = (
        None  # (GGUF name, tensor, config) → as llama.cpp lays it out
    )
    prefix: str = ""  # put before names that lack it
    skip: tuple[str, ...] = ()  # buffers that old files carry as tensors


def shape_of(config: Config) -> Shape:
    """The row for a model's config.json. Raises NotTakenError where there is none."""
    kind = str(config.get("model_type"))
    if kind not in SHAPES:
        raise NotTakenError(f"the fast engine's rows do not hold the architecture {kind!r}")
    if config.get("quantization_config"):
        raise NotTakenError("its weights are quantised in a format of transformers")
    return SHAPES[kind]


def _rope(config: Config, layer_type: str) -> dict[str, Any]:
    """Rotary settings in transformers' newer form, from either form of config.json."""
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        nested = rope.get(layer_type)
        return dict(nested if isinstance(nested, dict) else rope)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return {"rope_theta": config.get("rope_theta", 10000.0), **scaling, "rope_type": kind}


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _needs(config: Config, name: str, *allowed: Any) -> None:
    if config.get(name, allowed[0]) not in allowed:
        raise NotTakenError(
            f"{name} is {config[name]!r}, which the fast engine does not compute as transformers does"
        )


def _decoder(config: Config, activation: str = "silu") -> Facts:
    """What all decoders of the Llama line share."""
    _needs(config, "hidden_act", activation)
    heads, head_dim = int(config["num_attention_heads"]), _head_dim(config)
    context = int(config["max_position_embeddings"])
    facts = Facts(
        keys={
            "block_count": int(config["num_hidden_layers"]),
            "embedding_length": int(config["hidden_size"]),
            "feed_forward_length": int(config["intermediate_size"]),
            "attention.head_count": heads,
            "attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
            "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
            "rope.dimension_count": head_dim,
        },
        context_length=context,
    )
    _rotary(facts, config, head_dim)
    return facts


def _rotary(facts: Facts, config: Config, head_dim: int) -> None:
    rope: dict[str, Any] = _rope(config, "full_attention")
    kind = rope.get("rope_type", "default")
    part: float = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if part != 1.0:
        raise NotTakenError("only part of each head is rotated")
    theta: float = float(rope.get("rope_theta") or config.get("rope_theta") or 10000)
    facts.keys["rope.freq_base"] = theta
    if kind == "linear":
        facts.keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    elif kind == "llama3":
        facts.extra["rope_freqs.weight"] = _llama3_factors(rope, theta, head_dim)
    elif kind != "default":
        raise NotTakenError(f"its rotary positions are scaled by {kind!r}")


def _llama3_factors(rope: Mapping[str, Any], theta: float, head_dim: int) -> F32:
    """Llama 3.1's frequency factors (transformers.modeling_rope_utils, _compute_llama3_parameters)."""
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    wave = 2 * math.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    smooth = (original / wave - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wave < original / high, 1.0, np.where(wave > original / low, factor, between))
    return factors.astype(np.float32)


def _within_window(facts: Facts, window: Any) -> Facts:
    """llama.cpp attends to everything here; up to the window's length that is the same."""
    if window:
        facts.context_length = min(facts.context_length, int(window))
    return facts


def _llama(config: Config) -> Facts:
    facts = _decoder(config)
    return facts


def _mistral(config: Config) -> Facts:
    return _within_window(_decoder(config), config.get("sliding_window"))


def _qwen(config: Config) -> Facts:
    _needs(config, "attention_bias", False, None)
    facts = _decoder(config)
    return _within_window(facts, config.get("sliding_window") if config.get("use_sliding_window") else None)


def _phi3(config: Config) -> Facts:
    facts = _decoder(config)
    facts.keys["rope.scaling.original_context_length"] = facts.context_length
    return _within_window(facts, config.get("sliding_window"))


def _layer_types(config: Config, period: int) -> None:
    """llama.cpp holds the pattern of local and global layers fixed per architecture: every `period`-th is
    global.
    """
    layers = int(config["num_hidden_layers"])
    wanted = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers)]
    if list(config.get("layer_types") or wanted) != wanted:
        raise NotTakenError("its local and global layers follow another pattern than the fast engine's")
    pattern = config.get("_sliding_window_pattern", config.get("sliding_window_pattern"))
    if pattern is not None and not config.get("layer_types") and int(pattern) != period:
        raise NotTakenError("its local and global layers follow another pattern than the fast engine's")


def _gemma(config: Config, period: int) -> Facts:
    _layer_types(config, period)
    _needs(config, "attention_bias", False)
    _needs(config, "use_bidirectional_attention", None, False)
    _needs(config, "hidden_activation", "gelu_pytorch_tanh", None)
    if config.get("query_pre_attn_scalar", 256) != _head_dim(config):
        raise NotTakenError("its attention is scaled by something else than the head's width")
    facts = _decoder({**config, "hidden_act": "silu"})
    facts.keys["attention.sliding_window"] = int(config["sliding_window"])
    return facts


def _gemma2(config: Config) -> Facts:
    facts = _gemma(config, 2)
    attention, final = config.get("attn_logit_softcapping"), config.get("final_logit_softcapping")
    if not attention or not final:
        raise NotTakenError("it caps no logits, which the fast engine always does for this architecture")
    facts.keys |= {"attn_logit_softcapping": float(attention), "final_logit_softcapping": float(final)}
    return facts


def _gemma3(config: Config) -> Facts:
    _needs(config, "attn_logit_softcapping", None)
    _needs(config, "final_logit_softcapping", None)
    facts = _gemma(config, 6)
    local = _rope(config, "sliding_attention")
    base = config.get("rope_local_base_freq", local.get("rope_theta", 10000.0))
    if local.get("rope_type", "default") != "default" and "rope_local_base_freq" not in config:
        raise NotTakenError("its local layers scale their rotary positions")
    facts.keys["rope.freq_base_swa"] = float(base)
    return facts


def _gpt2(config: Config) -> Facts:
    _needs(config, "activation_function", "gelu_new")
    _needs(config, "scale_attn_weights", True)
    _needs(config, "scale_attn_by_inverse_layer_idx", False)
    _needs(config, "add_cross_attention", False)
    width, context = int(config["n_embd"]), int(config.get("n_positions", 1024))
    return Facts(
        keys={
            "block_count": int(config["n_layer"]),
            "embedding_length": width,
            "feed_forward_length": int(config.get("n_inner") or 4 * width),
            "attention.head_count": int(config["n_head"]),
            "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
        },
        context_length=context,
    )


def _permuted(name: str, tensor: F32, config: Config) -> F32:
    """llama.cpp rotates neighbouring channels where transformers rotates halves: q and k are reordered to
    suit.
    """
    if ".attn_q." in name:
        heads = int(config["num_attention_heads"])
    elif ".attn_k." in name:
        heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
    else:
        return tensor
    half = tensor.shape[0] // heads // 2
    return tensor.reshape(heads, 2, half, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _norm_plus_one(name: str, tensor: F32, config: Config) -> F32:
    """Gemma's norms multiply by 1 + weight."""
    return tensor + np.float32(1) if name.endswith("norm.weight") else tensor


def _transposed(name: str, tensor: F32, config: Config) -> F32:
    """GPT-2's linear layers are stored input first."""
    linear = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    return np.ascontiguousarray(tensor.T) if name.endswith(linear) else tensor


SHAPES: dict[str, Shape] = {
    "llama": Shape(arch="llama", facts=_llama, change=_permuted, skip=(".rotary_emb.inv_freq",)),
    "mistral": Shape(arch="llama", facts=_mistral, change=_permuted),
    "qwen2": Shape(arch="qwen2", facts=_qwen),
    "qwen3": Shape(arch="qwen3", facts=_qwen),
    "phi3": Shape(arch="phi3", facts=_phi3),
    "gemma2": Shape(arch="gemma2", facts=_gemma2, change=_norm_plus_one),
    "gemma3_text": Shape(arch="gemma3", facts=_gemma3, change=_norm_plus_one),
    "gpt2": Shape(
        arch="gpt2",
        facts=_gpt2,
        change=_transposed,
        prefix="transformer.",
        skip=(".attn.bias", ".attn.masked_bias"),
    ),
}
