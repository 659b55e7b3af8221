"""A mixture of experts: quantized experts, a router that stays float."""

import jax
import jax.numpy as jnp
from jax import lax

import qpass


def block(params, x):
    """Two of four experts for each row of ``x [T, 64]``."""
    scores = jax.nn.softmax(x @ params["router"])
    weights, chosen = lax.top_k(scores, 2)
    order = jnp.argsort(chosen.ravel())  # rows sorted by expert
    sizes = jnp.bincount(chosen.ravel(), length=4)
    rows = x[order // 2]
    gate = jax.nn.silu(lax.ragged_dot(rows, params["gate"], sizes))
    out = lax.ragged_dot(gate * lax.ragged_dot(rows, params["up"], sizes), params["down"], sizes)
    out = out[jnp.argsort(order)].reshape(-1, 2, 64)
    return jnp.sum(out * weights[..., None], axis=1)


def draw(seed, *shape):
    """Normal weights."""
    return jax.random.normal(jax.random.key(seed), shape) * 0.1


params = {
    "router": draw(0, 64, 4),
    "gate": draw(1, 4, 64, 96),
    "up": draw(2, 4, 64, 96),
    "down": draw(3, 4, 96, 64),
}
x = draw(4, 20, 64)

q = qpass.transform(block, qpass.Rule(weight="int8", act="int8"))
plan = q.plan(params, x)
qparams = q.quantize(params, x)

assert plan["router/dot_general.0"].reason.startswith("router: top_k picks from its result")
assert qparams["gate"].scale.shape == (4, 96, 1)  # for each expert and column
assert jnp.array_equal(jax.jit(q)(params, x), jax.jit(q)(qparams, x))

by_name = [
    qpass.Rule(path="router", weight="int8"),  # fits nothing else: taken at its word
    qpass.Rule(path="down", weight="int4 g32", act="int8 g32"),
    qpass.Rule(weight="int8", act="int8"),
]
plan = qpass.transform(block, by_name).plan(params, x)
assert plan["router/dot_general.0"].action is not None
