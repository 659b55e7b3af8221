"""A training step with optax: loss, gradient and update in one function."""

import jax
import jax.numpy as jnp
import optax

from tests.matrix.subject import WIDTH, Subject, batch, weight

OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_schedule(optax.linear_schedule(1.0, 0.5, 10)),
    optax.sgd(0.1, momentum=0.9),
)


def _apply(state, x):
    return jnp.tanh(x @ state["params"]["up"]) @ state["params"]["down"]


def _step(apply):
    def step(state, x):
        def loss(params):
            return jnp.mean((apply({**state, "params": params}, x) - jnp.sin(x)) ** 2)

        value, grads = jax.value_and_grad(loss)(state["params"])
        updates, opt = OPTIMIZER.update(grads, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, value

    return step


def subject() -> Subject:
    """Parameters and optimizer in one state, as a checkpoint holds them."""
    params = {"up": weight(WIDTH, 12, seed=1), "down": weight(12, WIDTH, seed=2)}
    state = {"params": params, "opt": OPTIMIZER.init(params)}
    weights = {"params/up": (0,), "params/down": (0,)}
    return Subject(_apply, state, batch(WIDTH), weights, build=_step, derivative=True)
