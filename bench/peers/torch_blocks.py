"""Layers of transformers as a user of PyTorch writes them; `torch.nn.Linear` for every weight."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DecoderBlock(nn.Module):
    """Grouped-query attention behind a context, rotary positions, SwiGLU."""

    def __init__(self, sizes: Mapping[str, Any], context: int, length: int):
        super().__init__()
        width, head, hidden = sizes["width"], sizes["head_dim"], sizes["hidden"]
        self.heads = {"q": sizes["heads"], "k": sizes["kv_heads"], "v": sizes["kv_heads"]}
        linear = {name: nn.Linear(width, n * head, bias=False) for name, n in self.heads.items()}
        linear["o"] = nn.Linear(sizes["heads"] * head, width, bias=False)
        linear |= {name: nn.Linear(width, hidden, bias=False) for name in ("gate", "up")}
        linear["down"] = nn.Linear(hidden, width, bias=False)
        self.linear = nn.ModuleDict(linear)
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-5) for _ in range(2))
        steps = context + torch.arange(length)
        angles = steps[:, None] * 1e5 ** -(torch.arange(0, head, 2) / head)
        self.register_buffer("cos", angles.cos()[:, None])
        self.register_buffer("sin", angles.sin()[:, None])
        self.register_buffer("seen", torch.arange(context + length) <= steps[:, None])

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`x [B, T, D]` behind `keys, values [B, S, KV, H]`."""
        x = x + self.attention(self.norms[0](x), keys, values)
        h = self.norms[1](x)
        return x + self.linear["down"](F.silu(self.linear["gate"](h)) * self.linear["up"](h))

    def attention(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Mix `x [B, T, D]` with what came before."""
        split = {n: self.linear[n](x).unflatten(-1, (heads, -1)) for n, heads in self.heads.items()}
        k = torch.cat([keys, self.rotate(split["k"])], 1)
        v = torch.cat([values, split["v"]], 1)
        groups = self.heads["q"] // self.heads["k"]
        k, v = (y.transpose(1, 2).repeat_interleave(groups, 1) for y in (k, v))
        q = self.rotate(split["q"]).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.seen)
        return self.linear["o"](mixed.transpose(1, 2).flatten(-2))

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions of `x [B, T, N, H]`."""
        low, high = x.chunk(2, -1)
        return torch.cat([low * self.cos - high * self.sin, high * self.cos + low * self.sin], -1)


class EncoderBlock(nn.Module):
    """A layer of BERT: attention of all to all, GELU, the norm after each half."""

    def __init__(self, sizes: Mapping[str, Any]):
        super().__init__()
        width, hidden = sizes["width"], sizes["hidden"]
        self.heads = sizes["heads"]
        self.qkv = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, D]` in and out."""
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in self.qkv)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        x = self.norms[0](x + self.out(mixed))
        return self.norms[1](x + self.down(F.gelu(self.up(x))))


def make(case: Mapping[str, Any]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The layers of a block or an encoder with random weights, and what they are called on.

    Raises:
        ValueError: a decoder with a vocabulary, which has to be decoded with.
    """
    sizes, batch, length = case["sizes"], case["batch"], case["length"]
    torch.manual_seed(0)
    x = torch.randn(batch, length, sizes["width"])
    if not sizes["decoder"]:
        return nn.Sequential(*(EncoderBlock(sizes) for _ in range(sizes["layers"]))).eval(), (x,)
    if sizes["vocab"] or sizes["layers"] > 1:
        raise ValueError("This peer runs products, blocks and encoders, no whole decoders.")
    cache = torch.zeros(batch, case["context"], sizes["kv_heads"], sizes["head_dim"])
    return DecoderBlock(sizes, case["context"], length).eval(), (x, cache, cache.clone())
