"""Better than rounding: the same rule, and three ways to find the codes of its weights."""

import jax
import jax.numpy as jnp

import qpass


def model(params, x):
    """Scanned layers and a head; ``x [M, 48]``."""
    x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, params["layers"])
    return x @ params["head"]


keys = jax.random.split(jax.random.key(0), 8)
params = {
    "layers": jax.random.normal(keys[0], (3, 48, 48)) / 7,
    "head": jax.random.normal(keys[1], (48, 10)) / 7,
}
# Channels that depend on each other and differ in size, as activations of real models do.
mix = jax.random.normal(keys[2], (8, 48)) * jnp.where(jnp.arange(48) % 8 == 0, 3.0, 0.3)
batches = [jax.random.normal(key, (64, 8)) @ mix for key in keys[3:7]]
x = jax.random.normal(keys[7], (64, 8)) @ mix

q = qpass.transform(model, [qpass.Rule(weight="int3 g16")])
stats = q.calibrate(params, batches, gather=("square",))
trees = {
    "rounding": q.quantize(params, x),
    "by importance": q.quantize(params, x, stats=stats),
    "GPTQ": q.quantize(params, method=qpass.GPTQ(), batches=batches),
}

print("--- errors")
for name, stored in trees.items():
    error = jax.jit(q)(stored, x) - model(params, x)
    print(f"{name:14} {float(jnp.linalg.norm(error) / jnp.linalg.norm(model(params, x))):.2f}")

# What was gathered is found by the site: for each layer, the mean square of 48 channels.
print("--- gathered")
print(stats.of("layers/dot_general.0").square.shape)
