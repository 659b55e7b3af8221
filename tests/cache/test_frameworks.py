"""Caches of modules: Linen's `cache` collection and the Cache variables of NNX."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import qpass

RULES = (
    qpass.Rule(cache="**/cached_key", store="int8", per="token"),
    qpass.Rule(cache="**/cached_value", store="int8", per="token"),
)
B, T, D = 2, 5, 8


def tokens():
    return jnp.asarray(np.random.default_rng(0).normal(size=(B, T, D)), jnp.float32)


def near(found, exact):
    np.testing.assert_allclose(found, exact, atol=0.05 * np.abs(exact).max())


def test_linen_decodes_with_its_cache_collection():
    model = nn.MultiHeadDotProductAttention(num_heads=2, decode=True)
    variables = model.init(jax.random.key(0), tokens())

    def step(variables, x):
        y, new = model.apply(variables, x, mutable=["cache"])
        return y, {**variables, **new}

    q = qpass.transform(step, RULES)
    stored = q.quantize_cache(variables, tokens()[:, :1])
    assert isinstance(stored["cache"]["cached_key"], qpass.QTensor)
    mine, exact = jax.jit(q), jax.jit(step)
    for t in range(T):
        x = tokens()[:, t : t + 1]
        y, stored = mine(stored, x)
        z, variables = exact(variables, x)
        near(y, z)
    assert int(stored["cache"]["cache_index"]) == T
    assert isinstance(stored["cache"]["cached_value"], qpass.QTensor)
    near(stored["cache"]["cached_key"].dequantize(), variables["cache"]["cached_key"])


def nnx_model():
    model = nnx.MultiHeadAttention(num_heads=2, in_features=D, decode=True, rngs=nnx.Rngs(0))
    model.init_cache((B, T, D))
    return model


def test_nnx_decodes_with_its_cache_variables():
    model, other = nnx_model(), nnx_model()
    q = qpass.transform(model, RULES).quantize_cache(tokens()[:, :1])
    step = nnx.jit(lambda model, x: model(x))
    for t in range(T):
        x = tokens()[:, t : t + 1]
        near(step(q, x), step(other, x))
    assert q.module.cached_key is not None
    cached = q.module.cached_key.get_value()
    assert isinstance(cached, qpass.QTensor)
    assert other.cached_key is not None
    near(cached.dequantize(), other.cached_key[...])
    assert int(q.module.cache_index[...]) == T
