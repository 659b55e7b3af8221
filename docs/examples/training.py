"""Delayed scaling in a training step: the state goes in and comes out, beside the parameters."""

import jax
import jax.numpy as jnp
import optax

import qpass
from qpass import training


def loss(params, x, y):
    """Scanned layers, rematerialized, and a head; ``x [M, 32]``."""

    @jax.checkpoint
    def layer(x, w):
        return x + jnp.tanh(x @ w), None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    return jnp.mean((x @ params["head"] - y) ** 2)


keys = jax.random.split(jax.random.key(0), 4)
params = {
    "layers": jax.random.normal(keys[0], (3, 32, 32)) / 6,
    "head": jax.random.normal(keys[1], (32, 10)) / 6,
}
batch = jax.random.normal(keys[2], (64, 32)), jax.random.normal(keys[3], (64, 10))

q = qpass.transform(loss, training.recipe("fp8_delayed_scaling", length=16))
step = qpass.value_and_grad(q)
optimizer = optax.adam(1e-2)


@jax.jit
def train(params, moments, state, batch):
    """One step; ``state`` is donated, carried through a loop and saved as the moments are."""
    (value, grads), state = step.apply(state, params, *batch)
    updates, moments = optimizer.update(grads, moments)
    return optax.apply_updates(params, updates), moments, state, value


state, moments = step.init_state(params, *batch), optimizer.init(params)
print("--- products")
for row in step.plan(params, *batch).rows:
    print(f"{row.id:20} {row.role:8} {row.scheme}")

values = []
for _ in range(20):
    params, moments, state, value = train(params, moments, state, batch)
    values.append(float(value))
assert values[-1] < 0.5 * values[0]

print("--- state")
for site, operands in sorted(state.items()):
    for name, past in operands.items():
        print(f"{site:20} {name:7} bound {past['bound'].shape} history {past['history'].shape}")

# An evaluation reads the state and leaves it as it is.
print("--- evaluation")
assert jnp.isfinite(jax.jit(q.with_state(state))(params, *batch))
try:
    q(params, *batch)
except qpass.StateError as error:
    print(error)
