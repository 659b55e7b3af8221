"""A search: which weight may have how few bits, within a size and within a loss."""

import jax
import jax.numpy as jnp

import qpass


def model(params, x):
    """Four layers and a head that gives logits; ``x [M, 32]``."""
    for layer in params["layers"]:
        x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    return x @ params["head"]


def normal(key, *shape):
    """A weight ``f32[shape]``."""
    return jax.random.normal(key, shape) / shape[0] ** 0.5


keys = jax.random.split(jax.random.key(0), 12)
# Some weights are harder to quantize than others: a few of their channels are large.
large = jnp.where(jnp.arange(32) % 16 == 0, 9.0, 1.0)[:, None]
params = {
    "layers": [
        {
            "up": normal(keys[2 * i], 32, 64) * large,
            "down": normal(keys[2 * i + 1], 64, 32) * (4.0 if i == 0 else 1.0),
        }
        for i in range(4)
    ],
    "head": normal(keys[8], 32, 10),
}
batches = [jax.random.normal(key, (64, 32)) for key in keys[9:11]]

found = qpass.search(
    model,
    params,
    batches,
    budget="6 bits",
    schemes=("int4 g32", "int4 g16", "int8"),
    loss="kl",
)
print("--- rules")
for rule in found.rules:
    print(rule.describe())
print(f"{found.bits:.2f} bits, loss {found.loss:.4f}, predicted {found.predicted:.4f}")

# The rules are rules as any others: save them, edit them, quantize by them.
q = qpass.transform(model, found.rules)
stored = q.quantize(params, batches[0])
assert qpass.tree_nbytes(stored) == found.nbytes

# Another budget, of the same measurements: the smallest that loses at most this much.
print("--- loss")
small = found.within("0.02 loss")
print(f"{small.bits:.2f} bits, loss {small.loss:.4f}")

# What there is to choose from, as far as one weight goes.
print("--- weight")
head = next(weight for weight in found.sensitivity.weights if weight.path == "head")
for option in head.options:
    print(f"{option.scheme}: {option.nbytes} bytes, loss {option.loss:.4f}")
