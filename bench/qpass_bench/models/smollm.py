"""SmolLM2-135M-Instruct: from the GGUF file of its package to a Flax tree and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from qpass_bench.models.decoder import DecoderConfig

CONTROL_TOKEN = 3
"""The GGUF token type of tokens that are never made from text, such as ``<|im_end|>``."""


@dataclass(frozen=True)
class SmolLM:
    """A loaded model: its sizes, float32 parameters, tokenizer and the id that ends a text."""

    config: DecoderConfig
    params: dict
    tokenizer: Tokenizer
    stop: int


def load(path: Path) -> SmolLM:
    """Read a Llama GGUF file whole: dequantized to float32, in the tree of ``decoder.Decoder``."""
    reader = GGUFReader(path)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    config = read_config(meta)
    weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    stop = int(meta["tokenizer.ggml.eos_token_id"])
    return SmolLM(config, to_tree(weights, config), read_tokenizer(meta), stop)


def read_config(meta: dict) -> DecoderConfig:
    """The sizes that the metadata of a Llama file gives."""
    width, heads = meta["llama.embedding_length"], meta["llama.attention.head_count"]
    return DecoderConfig(
        vocab=meta["llama.vocab_size"],
        layers=meta["llama.block_count"],
        width=width,
        heads=heads,
        kv_heads=meta["llama.attention.head_count_kv"],
        head_dim=width // heads,
        hidden=meta["llama.feed_forward_length"],
        eps=float(meta["llama.attention.layer_norm_rms_epsilon"]),
        rope_base=float(meta["llama.rope.freq_base"]),
    )


def read_tokenizer(meta: dict) -> Tokenizer:
    """Byte-level BPE with single digits, from the vocabulary and merges in the file."""
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [t for t, k in zip(tokens, kinds, strict=True) if k == CONTROL_TOKEN]
    )
    return tokenizer


def half_split(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo the row order of llama.cpp, which interleaves the rotary pairs kept in halves here."""
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return pairs.transpose(0, 2, 1, 3).reshape(out, width)


def to_tree(weights: dict[str, np.ndarray], config: DecoderConfig) -> dict:
    """The Flax tree of GGUF tensors: kernels ``[out, in]`` become ``[L, in, out]``, heads split."""
    c = config

    def stack(name: str, shape: tuple[int, ...], fix: Callable = lambda w: w.T) -> dict:
        parts = (fix(weights[f"blk.{i}.{name}.weight"]).reshape(shape) for i in range(c.layers))
        return {"kernel": np.stack(list(parts))}

    def norm(name: str) -> dict:
        return {"scale": np.stack([weights[f"blk.{i}.{name}.weight"] for i in range(c.layers)])}

    def rotary(heads: int) -> Callable:
        return lambda w: half_split(w, heads).T

    attention = {
        "q": stack("attn_q", (c.width, c.heads, c.head_dim), rotary(c.heads)),
        "k": stack("attn_k", (c.width, c.kv_heads, c.head_dim), rotary(c.kv_heads)),
        "v": stack("attn_v", (c.width, c.kv_heads, c.head_dim)),
        "o": stack("attn_output", (c.heads, c.head_dim, c.width)),
    }
    mlp = {
        "gate": stack("ffn_gate", (c.width, c.hidden)),
        "up": stack("ffn_up", (c.width, c.hidden)),
        "down": stack("ffn_down", (c.hidden, c.width)),
    }
    layers = {
        "attention_norm": norm("attn_norm"),
        "attention": attention,
        "mlp_norm": norm("ffn_norm"),
    }
    return {
        "embed": {"embedding": weights["token_embd.weight"]},
        "layers": {**layers, "mlp": mlp},
        "norm": {"scale": weights["output_norm.weight"]},
    }


def permute(params: dict, config: DecoderConfig, seed: int = 0) -> dict:
    """The same function with its channels in another order; numpy arrays in and out.

    The published weights were rounded to 4 bits in groups of 32, so a second rounding in the same
    groups finds every value already on its lattice and measures nothing. Shuffling the residual
    channels, the hidden channels of each MLP and the value channels inside each key/value head
    keeps every product the same sum in another order, but mixes values of different old groups in
    the new ones.
    """
    rng = np.random.default_rng(seed)
    c, layers = config, params["layers"]
    width = rng.permutation(c.width)
    hidden = np.stack([rng.permutation(c.hidden) for _ in range(c.layers)])
    value = np.stack(
        [[rng.permutation(c.head_dim) for _ in range(c.kv_heads)] for _ in range(c.layers)]
    )
    query = np.repeat(value, c.heads // c.kv_heads, axis=1)
    attention, mlp = layers["attention"], layers["mlp"]
    take = np.take_along_axis
    attention = {
        "q": {"kernel": attention["q"]["kernel"][:, width]},
        "k": {"kernel": attention["k"]["kernel"][:, width]},
        "v": {"kernel": take(attention["v"]["kernel"][:, width], value[:, None], axis=3)},
        "o": {"kernel": take(attention["o"]["kernel"][..., width], query[..., None], axis=2)},
    }
    mlp = {
        "gate": {"kernel": take(mlp["gate"]["kernel"][:, width], hidden[:, None], axis=2)},
        "up": {"kernel": take(mlp["up"]["kernel"][:, width], hidden[:, None], axis=2)},
        "down": {"kernel": take(mlp["down"]["kernel"][..., width], hidden[..., None], axis=1)},
    }
    norms = {n: {"scale": layers[n]["scale"][:, width]} for n in ("attention_norm", "mlp_norm")}
    return {
        "embed": {"embedding": params["embed"]["embedding"][:, width]},
        "layers": {**norms, "attention": attention, "mlp": mlp},
        "norm": {"scale": params["norm"]["scale"][width]},
    }


def chat(question: str) -> str:
    """The question as the model's chat template writes it, up to where the answer begins."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def on_device(params: dict) -> dict:
    """The tree as JAX arrays."""
    return jax.tree.map(jnp.asarray, params)
