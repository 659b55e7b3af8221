"""Attention with quantized products, in grouped heads."""

import jax
import jax.numpy as jnp

import qpass


def attend(params, x):
    """Causal attention over ``x [T, 64]``: four heads, of which two share keys and values."""
    q = jnp.einsum("td,dgkh->tgkh", x, params["q"])
    k, v = (jnp.einsum("sd,dkh->skh", x, params[name]) for name in "kv")
    scores = jnp.einsum("tgkh,skh->kgts", q, k) / 4
    scores = jnp.where(jnp.tri(len(x), dtype=bool), scores, -1e30)
    return jnp.einsum("kgts,skh->tgkh", jax.nn.softmax(scores), v).reshape(len(x), -1)


def draw(seed, *shape):
    """Normal weights."""
    return jax.random.normal(jax.random.key(seed), shape) / 8


params = {"q": draw(0, 64, 2, 2, 16), "k": draw(1, 64, 2, 16), "v": draw(2, 64, 2, 16)}
x = jax.random.normal(jax.random.key(3), (20, 64))

rules = [
    qpass.Rule(role="qk", act="int8", kv="int8", smooth=True),
    qpass.Rule(role="pv", kv="int8"),
    qpass.Rule(weight="int8", act="int8"),
]
q = qpass.transform(attend, rules)
schemes = [(row.role, row.scheme) for row in q.plan(params, x).rows]
assert schemes == [
    *[("forward", "int8 x int8")] * 3,
    ("qk", "int8 x int8, smooth"),
    ("pv", "int8 values-only"),
]
assert q.compare(params, x).result < 0.05
