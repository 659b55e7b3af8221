"""A Llama in numpy and float64, from its GGUF file: what the results of peers are held against."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize


@lru_cache(maxsize=4)
def last_logits(file: Path, tokens: tuple[int, ...]) -> np.ndarray:
    """The logits `f64[V]` after the last of some tokens."""
    reader = GGUFReader(file)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: t for t in reader.tensors}

    def weight(name: str) -> np.ndarray:
        tensor = tensors[f"{name}.weight"]
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float64)

    embedding, eps = weight("token_embd"), meta["llama.attention.layer_norm_rms_epsilon"]
    x = embedding[list(tokens)]
    for i in range(meta["llama.block_count"]):
        get = lambda name, i=i: weight(f"blk.{i}.{name}")  # noqa: E731
        x = x + attention(get, normed(x, get("attn_norm"), eps), meta)
        x = x + gated(get, normed(x, get("ffn_norm"), eps))
    return embedding @ normed(x[-1], weight("output_norm"), eps)


def normed(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    """RMSNorm of `x [.., D]`."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def gated(get, x: np.ndarray) -> np.ndarray:
    """SwiGLU of `x [T, D]`."""
    gate = x @ get("ffn_gate").T
    return (gate / (1 + np.exp(-gate)) * (x @ get("ffn_up").T)) @ get("ffn_down").T


def attention(get, x: np.ndarray, meta: dict) -> np.ndarray:
    """Causal grouped-query attention of `x [T, D]`."""
    heads, kv_heads = (meta[f"llama.attention.head_count{kind}"] for kind in ("", "_kv"))
    split = lambda name, n: (x @ get(name).T).reshape(len(x), n, -1)  # noqa: E731
    base = meta["llama.rope.freq_base"]
    q = rotated(split("attn_q", heads), base)
    k = np.repeat(rotated(split("attn_k", kv_heads), base), heads // kv_heads, axis=1)
    v = np.repeat(split("attn_v", kv_heads), heads // kv_heads, axis=1)
    scores = np.einsum("tnh,snh->nts", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("nts,snh->tnh", scores / scores.sum(-1, keepdims=True), v)
    return mixed.reshape(len(x), -1) @ get("attn_output").T


def rotated(x: np.ndarray, base: float) -> np.ndarray:
    """Rotary embedding of `x [T, N, H]`, whose pairs lie side by side in GGUF files."""
    steps, _, size = x.shape
    angles = np.arange(steps)[:, None] * float(base) ** (-np.arange(0, size, 2) / size)
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)
