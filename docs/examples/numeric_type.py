"""A numeric type of your own: six-bit integers, kept in int8 codes."""

import jax
import jax.numpy as jnp

import qpass

int6 = qpass.QType("int6", jnp.dtype(jnp.int8), -31, 31)


def mlp(params, x):
    """Two layers; ``x [M, 64]``."""
    return jax.nn.relu(x @ params["up"]) @ params["down"]


keys = jax.random.split(jax.random.key(0), 3)
params = {"up": jax.random.normal(keys[0], (64, 128)), "down": jax.random.normal(keys[1], (128, 8))}
x = jax.random.normal(keys[2], (4, 64))

rules = [qpass.Rule(path="up", weight=int6.grouped(16)), qpass.Rule(path="down", weight=int6)]
q = qpass.transform(mlp, rules)
stored = q.quantize(params, x)

assert stored["up"].qtype is int6
assert int(jnp.abs(stored["up"].codes).max()) == 31
assert (jax.jit(q)(stored, x) == jax.jit(q)(params, x)).all()
error = jnp.linalg.norm(q(stored, x) - mlp(params, x)) / jnp.linalg.norm(mlp(params, x))
assert error < 0.1
