"""Flax Linen: the function is ``model.apply``."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import qpass

model, x = nn.Dense(4), jnp.ones((2, 16))
variables = model.init(jax.random.key(0), x)

q = qpass.transform(model.apply, [qpass.Rule(path="params/kernel", weight="int8")])
served = q.quantize(variables, x)
assert isinstance(served["params"]["kernel"], qpass.QTensor)
assert (jax.jit(q)(served, x) == jax.jit(q)(variables, x)).all()
