"""Flax NNX: the model object goes in, a model object comes out."""

import jax.numpy as jnp
import optax
from flax import nnx

import qpass


class Block(nnx.Module):
    """A product, statistics and random numbers."""

    def __init__(self, rngs: nnx.Rngs):
        self.up = nnx.Linear(16, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        """Run it."""
        return self.drop(nnx.relu(self.norm(self.up(x))))


model, x = Block(nnx.Rngs(0)), jnp.ones((4, 16))
q = qpass.transform(model, [qpass.Rule(path="up/kernel", weight="int8", act="int8")])


@nnx.jit
def train_step(q, optimizer, x):
    """Quantization-aware: gradients go to the float weights."""
    loss, grads = nnx.value_and_grad(lambda q: (q(x) ** 2).mean())(q)
    optimizer.update(q, grads)
    return loss


optimizer = nnx.Optimizer(q, optax.sgd(0.1), wrt=nnx.Param)
train_step(q, optimizer, x)
assert model.norm.mean[...].any()  # the model's own Variables: q shares them
assert model.drop.rngs.count[...] == 1

served = q.quantize(x)  # a module of its own
assert isinstance(served.module.up.kernel.get_value(), qpass.QTensor)
served.eval()
assert nnx.jit(lambda m, x: m(x))(served, x).shape == (4, 32)

# A whole step as it was for the float model; the model and the optimizer are updated.
step = qpass.jit(train_step.__wrapped__, rules=[qpass.Rule(weight="int8", act="int8")])
step(model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param), x)
