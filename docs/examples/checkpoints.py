"""Save quantized parameters, load them for the function that they are for, and for no other."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

import qpass
from qpass import checkpoint


def model(params, x):
    """Two layers; ``x [M, 64]``."""
    return jnp.tanh(x @ params["up"]) @ params["down"]


keys = jax.random.split(jax.random.key(0))
params = {
    "up": jax.random.normal(keys[0], (64, 256)) / 8,
    "down": jax.random.normal(keys[1], (256, 64)) / 16,
}
x = jnp.ones((4, 64))
folder = Path(tempfile.mkdtemp()) / "model"

q = qpass.transform(model, [qpass.Rule(weight="int4 g32")])
qparams = q.quantize(params, x)
qpass.save(folder, qparams, q.plan(params, x), record={"rules": ["int4 g32"]})

# In another process: what is asked for comes from shapes alone.
like = jax.eval_shape(q.quantize, params, x)
assert jnp.array_equal(q(qpass.load(folder, like), x), q(qparams, x))
assert checkpoint.describe(folder).record == {"rules": ["int4 g32"]}

other = qpass.transform(
    model, [qpass.Rule(path="up", weight="int8"), qpass.Rule(weight="int4 g32")]
)
try:
    qpass.load(folder, jax.eval_shape(other.quantize, params, x))
except qpass.CheckpointError as error:
    print("--- refused")
    print(str(error).replace(str(folder), "model").replace("; ", ";\n"))
