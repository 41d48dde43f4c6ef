"""A wider or deeper model that computes what a smaller one does, so that each member starts where the one below
it ended.

After Net2Net (Chen et al. 2015, arXiv 1511.05641): where the width doubles every channel is doubled, and noise
that cancels tells the two halves apart, so that training can make them different. New heads, feed-forward
units and layers begin with a zero way out.
"""

from __future__ import annotations

import torch
from model import Llama, Shape
from torch import Tensor

NOISE = 0.3  # of a weight's own spread; cancels exactly at the start


@torch.no_grad()  # type: ignore[untyped-decorator] # torch's decorators carry no types
def grow(small: Llama, shape: Shape, seed: int) -> Llama:
    """A model of `shape` (as wide or twice as wide, as deep or deeper) with the same logits as `small`."""
    times = shape.width // small.shape.width
    assert shape.width == times * small.shape.width and times in (1, 2)
    assert shape.layers >= small.shape.layers and shape.hidden >= small.shape.hidden
    large = Llama(shape, seed)
    generator = torch.Generator().manual_seed(seed)

    def read(w: Tensor) -> Tensor:  # a matrix that reads the stream
        if times == 1:
            return w
        noise = torch.randn(w.shape, generator=generator) * w.std() * NOISE
        return torch.cat((w / 2 + noise, w / 2 - noise), 1)

    large.model.embed_tokens.weight.copy_(small.model.embed_tokens.weight.repeat(1, times))
    large.model.norm.weight.copy_(
        small.model.norm.weight.repeat(times) / times
    )  # the tied head sums the halves
    step = shape.layers / small.shape.layers
    places = {int(i * step): i for i in range(small.shape.layers)}
    width, hidden = small.shape.width, small.shape.hidden
    for at, layer in enumerate(large.model.layers):
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        if at not in places:
            continue
        old = small.model.layers[places[at]]
        layer.input_layernorm.weight.copy_(old.input_layernorm.weight.repeat(times))
        layer.post_attention_layernorm.weight.copy_(old.post_attention_layernorm.weight.repeat(times))
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(layer.self_attn, name).weight[:width].copy_(read(getattr(old.self_attn, name).weight))
        layer.self_attn.o_proj.weight[:, :width].copy_(old.self_attn.o_proj.weight.repeat(times, 1))
        layer.mlp.gate_proj.weight[:hidden].copy_(read(old.mlp.gate_proj.weight))
        layer.mlp.up_proj.weight[:hidden].copy_(read(old.mlp.up_proj.weight))
        layer.mlp.down_proj.weight[:, :hidden].copy_(old.mlp.down_proj.weight.repeat(times, 1))
    return large
