"""A decoder that transformers and compressed-tensors saved, as a plain function of JAX."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass import QTensor
from qpass.checkpoint.fit import rules_for
from qpass.checkpoint.formats import read, write_compressed_tensors, write_gptq
from qpass.checkpoint.mapping import To, fill
from qpass.checkpoint.spread import spread

PUBLISHED = Path(__file__).parents[1] / "data" / "tiny_llama"
LAYERS, WIDTH, HEADS, GROUPS, SIZE, HIDDEN, VOCAB = 2, 64, 4, 2, 16, 96, 48

NAMES = {
    "model.embed_tokens": To("embed", "v d -> v d"),
    "model.norm": "norm",
    "lm_head": To("head", "v d -> d v"),
    "model.layers.{i}.input_layernorm": "layers/attention/norm",
    "model.layers.{i}.post_attention_layernorm": "layers/mlp/norm",
    "model.layers.{i}.self_attn.q_proj": To("layers/attention/q", "(n h) d -> d n h"),
    "model.layers.{i}.self_attn.k_proj": To("layers/attention/k", "(n h) d -> d n h"),
    "model.layers.{i}.self_attn.v_proj": To("layers/attention/v", "(n h) d -> d n h"),
    "model.layers.{i}.self_attn.o_proj": To("layers/attention/o", "d (n h) -> n h d"),
    "model.layers.{i}.mlp.{name}_proj": To("layers/mlp/{name}", "out in -> in out"),
}


def shapes():
    heads = {"q": (WIDTH, HEADS, SIZE), "o": (HEADS, SIZE, WIDTH), "norm": (WIDTH,)}
    heads |= dict.fromkeys("kv", (WIDTH, GROUPS, SIZE))
    mlp = {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    layers = {"attention": heads, "mlp": mlp | {"norm": (WIDTH,)}}
    layers = jax.tree.map(lambda s: (LAYERS, *s), layers, is_leaf=lambda s: isinstance(s, tuple))
    tree = {"embed": (VOCAB, WIDTH), "norm": (WIDTH,), "head": (WIDTH, VOCAB), "layers": layers}
    leaf = lambda s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    return jax.tree.map(leaf, tree, is_leaf=lambda s: isinstance(s, tuple))


def normed(x, gain):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * gain


def rotated(x):
    """Rotary positions, halves apart; ``x [B, T, heads, size]``."""
    steps = 10000.0 ** -(jnp.arange(0, SIZE, 2) / SIZE)
    angle = jnp.arange(x.shape[1])[:, None, None] * steps
    low, high = jnp.split(x, 2, -1)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def attended(x, p):
    q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in "qkv")
    q, k = rotated(q), rotated(k)
    k, v = (jnp.repeat(y, HEADS // GROUPS, 2) for y in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / SIZE**0.5
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    probabilities = jax.nn.softmax(jnp.where(seen, scores, -1e30))
    return jnp.einsum("bnts,bsnh,nhd->btd", probabilities, v, p["o"])


def llama(params, ids):
    """Logits of the decoder."""

    def layer(x, p):
        x = x + attended(normed(x, p["attention"]["norm"]), p["attention"])
        y, mlp = normed(x, p["mlp"]["norm"]), p["mlp"]
        return x + (jax.nn.silu(y @ mlp["gate"]) * (y @ mlp["up"])) @ mlp["down"], None

    x = jax.lax.scan(layer, params["embed"][ids], params["layers"])[0]
    return normed(x, params["norm"]) @ params["head"]


def loaded(source, ids):
    rules = rules_for(fill(shapes(), source, NAMES).params)
    q = qpass.transform(llama, rules)
    return q, fill(shapes(), source, NAMES, plan=q.plan(shapes(), ids))


@pytest.fixture(scope="module")
def expected():
    return np.load(PUBLISHED / "logits.npz")


def test_its_logits_are_those_of_its_dequantized_weights(expected):
    q, filled = loaded(read(PUBLISHED), expected["ids"])
    how = [row.how for row in filled.report]
    assert how.count("codes kept: int4 g32 asym") + how.count("codes kept: int4 g16 asym") == 6
    assert how.count("codes kept: int8") == 1
    assert how.count("float") == len(how) - 7
    logits = jax.jit(q)(filled.params, expected["ids"])
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-4, atol=2e-5)
    stored = jax.tree.leaves(filled.params, is_leaf=lambda x: isinstance(x, QTensor))
    codes = [x for x in stored if isinstance(x, QTensor)]
    assert 4 * sum(x.nbytes for x in codes) < sum(x.float_nbytes for x in codes)


@pytest.mark.parametrize("write", [write_compressed_tensors, write_gptq])
def test_it_goes_out_again_with_the_codes_that_it_came_in_with(tmp_path, write, expected):
    source = read(PUBLISHED)
    params = fill(shapes(), source, NAMES).params
    write(tmp_path, spread(params, NAMES), scales="float32")
    again = read(tmp_path)
    assert set(again) == set(source)
    for name in source:
        one, other = source[name], again[name]
        if isinstance(one, QTensor):
            np.testing.assert_array_equal(one.codes, other.codes)
            one, other = one.dequantize(), other.dequantize()
        np.testing.assert_array_equal(one, other, name)
