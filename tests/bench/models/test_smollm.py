"""The GGUF loader against a model of llama.cpp's conventions in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGUFWriter

from qpass_bench.models import fetch, smollm
from qpass_bench.models.decoder import Forward, empty_cache
from qpass_bench.models.smollm import half_split, permute, to_tree
from tests.bench.tiny import TINY, decoder_params


def gguf_tensors(c, seed=0):
    """Random tensors ``[out, in]`` under their names in the file."""
    rng = np.random.default_rng(seed)
    kv = c.kv_heads * c.head_dim
    shapes = {
        "attn_q": (c.width, c.width),
        "attn_k": (kv, c.width),
        "attn_v": (kv, c.width),
        "attn_output": (c.width, c.width),
        "ffn_gate": (c.hidden, c.width),
        "ffn_up": (c.hidden, c.width),
        "ffn_down": (c.width, c.hidden),
        "attn_norm": (c.width,),
        "ffn_norm": (c.width,),
    }
    named = {f"blk.{i}.{n}.weight": s for i in range(c.layers) for n, s in shapes.items()}
    named |= {"token_embd.weight": (c.vocab, c.width), "output_norm.weight": (c.width,)}
    return {
        name: 0.3 * rng.standard_normal(shape).astype(np.float32) for name, shape in named.items()
    }


def interleaved_rope(x, base):
    """Rotate neighbouring pairs of ``x [T, N, H]``, as llama.cpp does for this architecture."""
    steps, _, dim = x.shape
    angle = np.arange(steps)[:, None] * base ** (-np.arange(0, dim, 2) / dim)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def llama(weights, c, ids):
    """Logits ``[T, V]`` in float64, straight from the file's tensors."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    norm = lambda x, g: x / np.sqrt((x * x).mean(-1, keepdims=True) + c.eps) * g  # noqa: E731
    x = w["token_embd.weight"][ids]
    mask = np.tril(np.ones((len(ids), len(ids)), bool))
    for i in range(c.layers):
        layer = {n.split(".")[2]: v for n, v in w.items() if n.startswith(f"blk.{i}.")}
        h = norm(x, layer["attn_norm"])
        split = lambda name, n, h=h, layer=layer: (h @ layer[name].T).reshape(len(ids), n, -1)  # noqa: E731
        q = interleaved_rope(split("attn_q", c.heads), c.rope_base)
        k = interleaved_rope(split("attn_k", c.kv_heads), c.rope_base)
        k, v = (np.repeat(y, c.heads // c.kv_heads, 1) for y in (k, split("attn_v", c.kv_heads)))
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(c.head_dim)
        weights_ = np.exp(np.where(mask, scores, -np.inf))
        weights_ /= weights_.sum(-1, keepdims=True)
        mixed = np.einsum("hts,shd->thd", weights_, v).reshape(len(ids), -1)
        x = x + mixed @ layer["attn_output"].T
        h = norm(x, layer["ffn_norm"])
        gate, up = h @ layer["ffn_gate"].T, h @ layer["ffn_up"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ layer["ffn_down"].T
    return norm(x, w["output_norm.weight"]) @ w["token_embd.weight"].T


def logits(params, c, ids):
    out, _ = Forward(c)(params, np.asarray([ids]), empty_cache(c, 1, len(ids)), jnp.int32(0))
    return out[0]


def test_loaded_tree_computes_what_the_file_means():
    weights, ids = gguf_tensors(TINY), [5, 17, 2, 2, 250, 99]
    got = logits(to_tree(weights, TINY), TINY, ids)
    np.testing.assert_allclose(got, llama(weights, TINY, ids), atol=2e-3)


def test_half_split_gathers_even_rows_then_odd_rows():
    weight = np.arange(8.0)[:, None]
    assert half_split(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_permutation_keeps_the_function_and_the_values():
    params = decoder_params()
    moved = permute(params, TINY, seed=3)
    ids = [1, 2, 3, 200, 4]
    np.testing.assert_allclose(logits(moved, TINY, ids), logits(params, TINY, ids), atol=2e-3)
    for path in (("attention", "o"), ("attention", "v"), ("mlp", "down"), ("mlp", "up")):
        before, after = (p["layers"][path[0]][path[1]]["kernel"] for p in (params, moved))
        assert not np.array_equal(before, after)
        np.testing.assert_array_equal(np.sort(before, axis=None), np.sort(after, axis=None))


def test_permutation_breaks_the_groups_of_the_old_rounding():
    """Weights on a 4-bit lattice in groups of 32 fit it exactly before and not after."""
    params = decoder_params()
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    params["layers"]["mlp"]["up"]["kernel"] = on_lattice(kernel)
    moved = permute(params, TINY)["layers"]["mlp"]["up"]["kernel"]
    kernel = params["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(on_lattice(kernel), kernel, atol=1e-6)
    assert np.abs(on_lattice(moved) - moved).mean() > 0.02 * np.abs(moved).mean()


def on_lattice(kernel):
    """Round ``[L, in, out]`` to int4 in groups of 32 inputs."""
    groups = kernel.reshape(kernel.shape[0], -1, 32, kernel.shape[2])
    scale = np.abs(groups).max(axis=2, keepdims=True) / 7
    return (np.rint(groups / scale) * scale).reshape(kernel.shape)


def write_gguf(path, c, weights):
    vocabulary = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "a",
        "b",
        "ab",
        "Ġ",
        "1",
        "2",
        "12",
    ]
    writer = GGUFWriter(path, "llama")
    writer.add_vocab_size(c.vocab)
    writer.add_block_count(c.layers)
    writer.add_embedding_length(c.width)
    writer.add_feed_forward_length(c.hidden)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_layer_norm_rms_eps(c.eps)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "1 2"])
    writer.add_eos_token_id(2)
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_load_reads_sizes_weights_and_tokenizer(tmp_path):
    weights = gguf_tensors(TINY)
    write_gguf(tmp_path / "tiny.gguf", TINY, weights)
    model = smollm.load(tmp_path / "tiny.gguf")
    assert (model.config.width, model.config.heads, model.stop) == (TINY.width, TINY.heads, 2)
    assert model.config.eps == pytest.approx(TINY.eps)
    embedding = model.params["embed"]["embedding"]
    np.testing.assert_array_equal(embedding, weights["token_embd.weight"])
    # "ab" is merged, digits never are, and the control token is one token.
    assert model.tokenizer.encode("ab 12<|im_end|>").ids == [5, 6, 7, 8, 2]
    assert model.tokenizer.decode([5, 6, 7]) == "ab 1"


@pytest.mark.checkpoint
def test_the_real_model_knows_the_capital_of_france():
    model = smollm.load(fetch.fetch(fetch.SMOLLM2))
    ids = model.tokenizer.encode("The capital of France is").ids
    best = int(logits(model.params, model.config, ids)[-1].argmax())
    assert model.tokenizer.decode([best]) == " Paris"
