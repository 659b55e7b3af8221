"""No framework: a function of parameters, a registered dataclass, a training step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

import qpass

rules = [qpass.Rule(weight="int8", act="int8")]
optimizer = optax.adam(1e-2)
x = jnp.ones((2, 16))


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    """A callable pytree."""

    w: jax.Array

    def __call__(self, x):
        """Run it."""
        return jnp.tanh(x @ self.w)


def train_step(layer, state, x, loss="square"):
    """One step; what is no array (``loss``) needs no ceremony."""
    power = {"square": 2, "fourth": 4}[loss]
    grads = jax.grad(lambda layer: (layer(x) ** power).mean())(layer)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(layer, updates), state


layer = Layer(jnp.ones((16, 4)))
q = qpass.transform(layer, rules)  # a pytree, too
assert jax.jit(lambda q, x: q(x))(q.quantize(x), x).shape == (2, 4)

step = qpass.jit(train_step, rules=rules, static_argnames="loss")
layer, state = step(layer, optimizer.init(layer), x, loss="fourth")
assert {site.site.role for site in step.plan(layer, state, x).decisions} == {"forward", "drhs"}
