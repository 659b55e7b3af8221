"""How the range of codes is found: by rules as text or values, and what it is worth."""

import jax
import jax.numpy as jnp

import qpass
from qpass.numerics import quantize


def mlp(params, x):
    """Two layers; ``x [M, 64]``."""
    return jax.nn.relu(x @ params["up"]) @ params["down"]


keys = jax.random.split(jax.random.key(0), 3)
params = {
    "up": jax.random.normal(keys[0], (64, 256)),
    "down": jax.random.t(keys[1], 3, (256, 8)),  # some values far outside
}
x = jax.random.normal(keys[2], (32, 64))

# The words of a text go in this order: type, granularity, zero point, range.
rules = [
    qpass.Rule(path="up", weight="int4 g32 mse", act="int8"),
    qpass.Rule(path="down", weight=qpass.int4.grouped(32).ranged(qpass.Percentile(98))),
]
q = qpass.transform(mlp, rules)
print("--- plan")
for row in q.plan(params, x).rows:
    print(row.weight, row.scheme, sep=": ")

stored = q.quantize(params, x)
assert (jax.jit(q)(stored, x) == jax.jit(q)(params, x)).all()

# The same array by several methods: the error relative to the array.
print("--- errors")
for text in ("absmax", "absmax,0.8", "rms,2.5", "percentile,98", "mse", "pow2", "pow2,mse"):
    w = params["down"]
    error = quantize(w, qpass.int4.ranged(text), contract=(0,)).dequantize() - w
    print(f"int4 {text:14} {float(jnp.linalg.norm(error) / jnp.linalg.norm(w)):.2f}")

# Where inputs differ in size, an error in a weight counts as much as what it is multiplied by.
inputs = jax.random.normal(keys[2], (64, 256)) * jnp.where(jnp.arange(256) < 32, 10.0, 0.1)
wanted = inputs @ params["down"]
print("--- products")
for text in ("absmax", "mse", "wmse"):
    layer = qpass.transform(lambda w, x: x @ w, [qpass.Rule(weight=f"int4 {text}")])
    stats = layer.capture(params["down"], inputs) if text == "wmse" else None
    w = layer.quantize(params["down"], inputs, stats=stats)
    error = jnp.linalg.norm(layer(w, inputs) - wanted) / jnp.linalg.norm(wanted)
    print(f"int4 {text:14} {float(error):.2f}")
