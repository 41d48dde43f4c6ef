"""A wider and deeper model that computes what a smaller one does, so that the larger members start where the
small one ended.

After Net2Net (Chen et al. 2015, arXiv 1511.05641): every channel is doubled, new heads and feed-forward units
and new layers begin with a zero way out. The two halves are told apart by noise that cancels, so training can
make them different.
"""

from __future__ import annotations

import torch
from model import Llama, Shape
from torch import Tensor

NOISE = 0.3  # of a weight's own spread; cancels exactly at the start


@torch.no_grad()  # type: ignore[untyped-decorator] # torch's decorators carry no types
def grow(small: Llama, shape: Shape, seed: int) -> Llama:
    """A model of `shape` (twice as wide, as deep or deeper) with the same logits as `small`."""
    assert shape.width == 2 * small.shape.width and shape.layers >= small.shape.layers
    large = Llama(shape, seed)
    generator = torch.Generator().manual_seed(seed)

    def read(w: Tensor) -> Tensor:  # a matrix that reads the doubled stream
        noise = torch.randn(w.shape, generator=generator) * w.std() * NOISE
        return torch.cat((w / 2 + noise, w / 2 - noise), 1)

    large.model.embed_tokens.weight.copy_(small.model.embed_tokens.weight.repeat(1, 2))
    large.model.norm.weight.copy_(small.model.norm.weight.repeat(2) / 2)  # the tied head sums both halves
    step = shape.layers / small.shape.layers
    places = {int(i * step): i for i in range(small.shape.layers)}
    width, hidden = small.shape.width, small.shape.hidden
    for at, layer in enumerate(large.model.layers):
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        if at not in places:
            continue
        old = small.model.layers[places[at]]
        layer.input_layernorm.weight.copy_(old.input_layernorm.weight.repeat(2))
        layer.post_attention_layernorm.weight.copy_(old.post_attention_layernorm.weight.repeat(2))
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(layer.self_attn, name).weight[:width].copy_(read(getattr(old.self_attn, name).weight))
        layer.self_attn.o_proj.weight[:, :width].copy_(old.self_attn.o_proj.weight.repeat(2, 1))
        layer.mlp.gate_proj.weight[:hidden].copy_(read(old.mlp.gate_proj.weight))
        layer.mlp.up_proj.weight[:hidden].copy_(read(old.mlp.up_proj.weight))
        layer.mlp.down_proj.weight[:, :hidden].copy_(old.mlp.down_proj.weight.repeat(2, 1))
    return large
