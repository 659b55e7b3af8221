"""Haiku: the function is the ``apply`` of the transformed pair."""

import haiku as hk
import jax
import jax.numpy as jnp

import qpass

model, x = hk.transform(lambda x: hk.nets.MLP([32, 4])(x)), jnp.ones((2, 16))
params = model.init(jax.random.key(0), x)

q = qpass.transform(model.apply, [qpass.Rule(path="mlp/**/w", weight="int8", act="int8")])
served = q.quantize(params, None, x)
assert isinstance(served["mlp/~/linear_0"]["w"], qpass.QTensor)
assert jax.jit(q)(served, None, x).shape == (2, 4)
