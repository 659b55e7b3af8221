"""QLoRA: adapters beside 4-bit weights, trained in a step of your own."""

import jax
import jax.numpy as jnp

import qpass


def mlp(params, x):
    """Two layers; ``x [M, 64]``."""
    return jax.nn.relu(x @ params["up"]) @ params["down"]


keys = jax.random.split(jax.random.key(0), 4)
params = {
    "up": jax.random.normal(keys[0], (64, 128)) / 8,
    "down": jax.random.normal(keys[1], (128, 4)) / 11,
}
x = jax.random.normal(keys[2], (256, 64))
target = jnp.sin(x[:, :4])

lora = qpass.LoRA(rank=8, alpha=16.0)
q = qpass.transform(mlp, [qpass.Rule(weight="int4 g32", lora=lora)])
stored = q.quantize(params, x)  # QTensors; float weights will do, too
adapters = q.init_adapters(keys[3], stored, x)


@jax.jit
def step(adapters, stored, x, target):
    """One step of gradient descent on the adapters alone."""

    def loss(adapters):
        return jnp.mean((q.with_adapters(adapters)(stored, x) - target) ** 2)

    value, slope = jax.value_and_grad(loss)(adapters)
    return jax.tree.map(lambda a, g: a - 0.1 * g, adapters, slope), value


losses = []
for _ in range(60):
    adapters, value = step(adapters, stored, x, target)
    losses.append(float(value))
assert losses[-1] < 0.5 * losses[0]

merged = q.merge(adapters, stored, x)  # float weights for the function as it was
apart = q.with_adapters(adapters)(stored, x)
assert jnp.allclose(mlp(merged, x), apart, atol=1e-4)

print("--- plan")
for row in q.plan(stored, x).rows:
    print(row.weight, row.scheme, sep=": ")
print("--- shapes")
for path, factors in adapters.items():
    print(path, {name: factor.shape for name, factor in factors.items()})
