"""2:4 sparse int8 weights: dense at first, masks from a step on, zeros in what is stored."""

import jax
import jax.numpy as jnp

import qpass


def layer(params, x):
    """One layer; ``x [M, 64]``."""
    return jnp.tanh(x @ params["w"])


params = {"w": jax.random.normal(jax.random.key(0), (64, 32)) / 8}
x = jax.random.normal(jax.random.key(1), (256, 64))
target = jnp.sin(x[:, :32] + x[:, 32:])

nm = qpass.NM(2, 4, start=10, every=10)
q = qpass.transform(layer, qpass.Rule(weight="int8", sparsity=nm))
masks = q.init_masks(params, x)


@jax.jit
def step(params, masks, number, x, target):
    """One step of gradient descent, with the masks that are due at it."""
    masks = q.update_masks(masks, number, params, x)

    def loss(params):
        return jnp.mean((q.with_masks(masks)(params, x) - target) ** 2)

    value, slope = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, slope), masks, value


print("--- kept")
for number in range(40):
    params, masks, value = step(params, masks, number, x, target)
    if number in (9, 10, 39):
        print(f"step {number:2}: {float(masks['w'].mean()):.0%} of w is kept")

trained = q.with_masks(masks)
stored = trained.quantize(params, x)  # the zeros are stored: no masks needed from here on
assert (jax.jit(q)(stored, x) == jax.jit(trained)(params, x)).all()
assert float((stored["w"].dequantize() == 0).mean()) >= 0.5
