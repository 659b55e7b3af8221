"""Two numeric types of your own: three values in two bits, and powers of two in four."""

import jax
import jax.numpy as jnp

import qpass

ternary = qpass.QType("ternary", jnp.dtype(jnp.int8), -1, 1, packed=2)

halves = tuple(2.0**-k for k in range(7))
powers = qpass.QType(
    "powers",
    jnp.dtype(jnp.uint4),
    -1,
    1,
    kind="table",
    table=(*(-v for v in halves), 0.0, *reversed(halves)),
)


def mlp(params, x):
    """Two layers; ``x [M, 64]``."""
    return jax.nn.relu(x @ params["up"]) @ params["down"]


keys = jax.random.split(jax.random.key(0), 3)
params = {"up": jax.random.normal(keys[0], (64, 128)), "down": jax.random.normal(keys[1], (128, 8))}
x = jax.random.normal(keys[2], (4, 64))

rules = [
    qpass.Rule(path="up", weight=ternary.grouped(16)),
    qpass.Rule(path="down", weight=powers),
]
q = qpass.transform(mlp, rules)
stored = q.quantize(params, x)

assert stored["up"].qtype is ternary
assert stored["up"].codes.nbytes == 64 * 128 // 4
assert (jax.jit(q)(stored, x) == jax.jit(q)(params, x)).all()
