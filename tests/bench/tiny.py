"""Models small enough to build in a test."""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from qpass_bench.models.decoder import DecoderConfig

TINY = DecoderConfig(
    vocab=300, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, hidden=96, rope_base=10_000.0
)


def random_tree(shapes, seed=0, scale=0.2):
    """Arrays of the shapes in a tree of tuples, normal; norm scales near one."""
    rng = np.random.default_rng(seed)

    def fill(path, node):
        if isinstance(node, dict):
            return {name: fill((*path, name), child) for name, child in node.items()}
        noise = scale * rng.standard_normal(node).astype(np.float32)
        return noise + 1 if path[-1] == "scale" else noise

    return fill((), shapes)


def decoder_shapes(c):
    heads = lambda n: {"kernel": (c.layers, c.width, n, c.head_dim)}  # noqa: E731
    attention = {"q": heads(c.heads), "k": heads(c.kv_heads), "v": heads(c.kv_heads)}
    attention["o"] = {"kernel": (c.layers, c.heads, c.head_dim, c.width)}
    wide = {"kernel": (c.layers, c.width, c.hidden)}
    mlp = {"gate": wide, "up": wide, "down": {"kernel": (c.layers, c.hidden, c.width)}}
    norm = {"scale": (c.layers, c.width)}
    layers = {"attention_norm": norm, "attention": attention, "mlp_norm": norm, "mlp": mlp}
    embed = {"embedding": (c.vocab, c.width)}
    return {"embed": embed, "layers": layers, "norm": {"scale": (c.width,)}}


def decoder_params(config=TINY, seed=0):
    return random_tree(decoder_shapes(config), seed)


def byte_tokenizer():
    """A tokenizer of the 256 bytes, without merges."""
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
