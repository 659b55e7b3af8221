"""Schemes by the names that they have elsewhere: what they store, and what they cost."""

import jax
import jax.numpy as jnp

import qpass
from qpass import presets


def model(params, x):
    """An MLP and a head; ``x [M, 128]``."""
    x = jax.nn.gelu(x @ params["mlp"]["up"]) @ params["mlp"]["down"]
    return x @ params["head"]


keys = jax.random.split(jax.random.key(0), 4)
params = {
    "mlp": {
        "up": jax.random.normal(keys[0], (128, 512)) / 12,
        "down": jax.random.normal(keys[1], (512, 128)) / 22,
    },
    "head": jax.random.normal(keys[2], (128, 16)) / 12,
}
x = jax.random.normal(keys[3], (8, 128))
exact = model(params, x)


def measure(rules):
    """Bytes of the stored parameters, and the error of the results relative to them."""
    q = qpass.transform(model, rules)
    stored = q.quantize(params, x)
    got = jax.jit(q)(stored, x)
    weights = jax.tree.leaves(stored, is_leaf=lambda leaf: isinstance(leaf, qpass.QTensor))
    size = sum(weight.nbytes for weight in weights)
    return size, float(jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact))


# A preset takes the selectors of any rule: the head stays in int8, whatever the rest is in.
head = presets.int8_weight_only(path="head")
print("--- schemes")
for name in ("int8_dynamic_int8", "int8_dynamic_int4", "uint4_weight_only", "nf4", "mxfp8"):
    size, error = measure([head, presets.PRESETS[name](path="mlp/**")])
    print(f"{name:18} {size:6} bytes, error {error:.3f}")

# It is a rule like any other: written out, it can be changed.
print("--- rule")
print(presets.int8_dynamic_int4(group=64, path="mlp/**").describe())
rule = qpass.Rule(path="mlp/**", weight="int4 g64 mse", act="int8 asym")
print(f"with a searched range: error {measure([head, rule])[1]:.3f}")
