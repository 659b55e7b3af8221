"""Static activations: capture ranges on data, choose by a method, serve with them."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

import qpass


def model(params, x):
    """Scanned layers and a head; ``x [M, 32]``."""
    x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["layers"])
    return x @ params["head"]


keys = jax.random.split(jax.random.key(0), 8)
params = {
    "layers": jax.random.normal(keys[0], (3, 32, 32)) / 6,
    "head": jax.random.normal(keys[1], (32, 10)) / 6,
}
batches = [jax.random.normal(key, (64, 32)) for key in keys[2:6]]
x = jax.random.normal(keys[6], (64, 32))

q = qpass.transform(model, [qpass.Rule(weight="int8", act="int8 static")])
print("--- plan")
for row in q.plan(params, x).rows:
    print(row.id, row.scheme, sep=": ")

# One batch after the other; the state is a plain pytree that can be saved and gone on with.
stats = None
for batch in batches:
    stats = q.capture(params, batch, stats=stats)
with tempfile.TemporaryDirectory() as folder:
    qpass.save_stats(Path(folder) / "stats.npz", stats)
    stats = qpass.load_stats(Path(folder) / "stats.npz")

print("--- ranges")
for method in ("max", "mean", "ema", "percentile,99.9"):
    ranges = qpass.ranges(stats, method)
    lo, hi = ranges["layers/dot_general.0"]  # a range for each of the three layers
    print(
        f"{method:15} {[f'{float(a):.2f} to {float(b):.2f}' for a, b in zip(lo, hi, strict=True)]}"
    )

static = q.with_ranges(qpass.ranges(stats, "mean"))
stored = static.quantize(params, x)
error = jax.jit(static)(stored, x) - model(params, x)
assert jnp.linalg.norm(error) < 0.03 * jnp.linalg.norm(model(params, x))

print("--- without")
try:
    q(params, x)
except qpass.CalibrationError as error:
    print(error)
