"""Where NaN and infinities enter a quantized program."""

import jax
import jax.numpy as jnp

import qpass


def layer(x, w):
    """One layer that divides by what it should not."""
    h = jax.nn.relu(x @ w["up"])
    return (h / h.sum(-1, keepdims=True)) @ w["down"], None


def model(params, x):
    """Three layers."""
    return jax.lax.scan(layer, x, params)[0]


params = {"up": jnp.ones((3, 4, 8)).at[1].multiply(-1), "down": jnp.ones((3, 8, 4))}
q = qpass.transform(model, [qpass.Rule(weight="int8", act="int8")])
found = q.nonfinite(params, jnp.ones((2, 4)))

print("--- result")
print("finite:", bool(jnp.isfinite(q(params, jnp.ones((2, 4)))).all()))

print("--- found")
print(found)

print("--- first")
print(found.first)
