"""The residual stream of a transformer: its blocks, and every module that writes into it.

Found in the module tree by place, shape and name. What is not known for certain is an error: a write that was
missed would leave the refusal direction in the weights, and a failed attack is no safety. Whether the map
is right is checked afterwards on the stream itself (`share_along`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dutchdoor.core import WeightsError

# The last projection of an attention or feed-forward part (Llama, Qwen, Mistral, Gemma, Phi, GPT-2, NeoX, OPT).
WRITES = {"o_proj", "out_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h", "fc2", "fc_out"}
# What only reads the stream; with as many outputs as the stream is wide it would look like a write.
READS = {
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "gate_proj", "up_proj", "gate_up_proj",
    "c_fc", "fc1", "fc_in", "dense_h_to_4h",
}  # fmt: skip
# What a part's output goes through before it is added, in the blocks that have such norms (Gemma 2 and 3, OLMo 2; GLM).
AFTER = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)
UNKNOWN_HINT = "this rung can't be run on it; LoRA and full fine-tuning can"


@dataclass(frozen=True)
class Write:
    """A module that writes into the stream, and the scale that is laid over what it writes, if any."""

    module: Any
    kind: str  # Linear | Conv1D | Embedding
    scale: Any | None = None


@dataclass(frozen=True)
class Stream:
    """The blocks in order, all writes, and the width of the stream."""

    blocks: list[Any]
    writes: list[Write]
    width: int


def stream_of(torch: Any, model: Any) -> Stream:
    """The map of a model. Raises WeightsError for an architecture that is not known here."""
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings()
    width = int(embedding.weight.shape[1])
    lists = [m for m in model.modules() if type(m).__name__ == "ModuleList" and len(m) > 0]
    blocks = next((list(m) for m in lists if len(m) == config.num_hidden_layers), None)
    if blocks is None:
        raise _unknown(model, "its blocks were not found")
    inside = {id(m) for block in blocks for m in block.modules()}
    tables = [
        m for m in model.modules()
        if isinstance(m, torch.nn.Embedding) and id(m) not in inside and m.weight.shape[1] == width
    ]  # fmt: skip
    writes = [Write(table, "Embedding") for table in tables]
    for block in blocks:
        found = list(_writes_of(torch, model, block, width))
        if len(found) < 2:
            raise _unknown(model, "a block does not write from attention and feed-forward as known ones do")
        writes += found
    return Stream(blocks, writes, width)


def _writes_of(torch: Any, model: Any, block: Any, width: int) -> Iterator[Write]:
    norms = next((pair for pair in AFTER if hasattr(block, pair[1])), None)
    for path, module in block.named_modules():
        kind, name = type(module).__name__, path.rsplit(".", 1)[-1]
        if kind not in ("Linear", "Conv1D"):
            continue
        outputs = module.weight.shape[0 if kind == "Linear" else 1]
        if outputs != width or name in READS:
            continue
        if name not in WRITES:
            raise _unknown(model, f"{path} may write into the residual stream or not")
        scale = None
        if norms is not None:
            norm = getattr(block, norms[0 if "att" in path else 1])
            with torch.no_grad():  # a root-mean-square norm of ones is its own scale
                scale = norm(torch.ones(width, device=module.weight.device)).detach()
        yield Write(module, kind, scale)


def _unknown(model: Any, why: str) -> WeightsError:
    kind = getattr(model.config, "model_type", type(model).__name__)
    return WeightsError(
        f"the refusal direction can't be taken out of a {kind} model here: {why}", hint=UNKNOWN_HINT
    )


def axis_of(torch: Any, write: Write, direction: Any) -> Any:
    """The unit vector that a write must be orthogonal to, so that what reaches the stream is orthogonal to
    `direction`: behind a norm with scale g, (g ⊙ y) · r = y · (g ⊙ r).
    """
    axis = direction.double() if write.scale is None else write.scale.double() * direction.double()
    return axis / torch.linalg.vector_norm(axis)


def orthogonalise(torch: Any, stream: Stream, direction: Any) -> None:
    """Take the direction out of every write: W ← W − r rᵀ W, biases likewise (Arditi et al. 2024, eq. 5)."""
    with torch.no_grad():
        for write in stream.writes:
            axis = axis_of(torch, write, direction)
            weight = write.module.weight
            wide = weight.double()
            if write.kind == "Linear":  # its rows are the outputs
                wide = wide - torch.outer(axis, axis @ wide)
            else:
                wide = wide - torch.outer(wide @ axis, axis)
            weight.copy_(wide)
            bias = getattr(write.module, "bias", None)
            if bias is not None:
                bias.copy_(bias.double() - axis * (axis @ bias.double()))


@contextmanager
def ablated(torch: Any, stream: Stream, direction: Any) -> Iterator[None]:
    """The model as if its weights were orthogonalised, without a copy of them."""

    def hook(axis: Any) -> Callable[[Any, Any, Any], Any]:
        return lambda module, given, out: out - (out @ axis).unsqueeze(-1) * axis

    axes = [(write.module, axis_of(torch, write, direction).float()) for write in stream.writes]
    handles = [module.register_forward_hook(hook(axis)) for module, axis in axes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def added(block: Any, vector: Any) -> Iterator[None]:
    """The stream before a block with a vector added at every position."""

    def hook(module: Any, given: Any, named: Any) -> tuple[Any, Any]:
        if given:
            return (given[0] + vector, *given[1:]), named
        return given, {**named, "hidden_states": named["hidden_states"] + vector}

    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watched(stream: Stream, after: bool) -> Iterator[list[Any]]:
    """The stream before each block while the model runs; `after`: and behind the last."""
    seen: list[Any] = []

    def before(module: Any, given: Any, named: Any) -> None:
        seen.append((given[0] if given else named["hidden_states"]).detach())

    def behind(module: Any, given: Any, out: Any) -> None:
        seen.append((out[0] if isinstance(out, tuple) else out).detach())

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in stream.blocks]
    if after:
        handles.append(stream.blocks[-1].register_forward_hook(behind))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def share_along(torch: Any, states: Sequence[Any], masks: Any, direction: Any) -> float:
    """The greatest share of any state's length that lies along the direction; 0 when it is gone."""
    unit = (direction / torch.linalg.vector_norm(direction)).float()
    shares = [
        ((state @ unit).abs() / torch.linalg.vector_norm(state, dim=-1).clamp_min(1e-9))[masks].max()
        for state in states
    ]
    return float(torch.stack(shares).max())
