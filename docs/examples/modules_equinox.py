"""Equinox: a module goes in, a pytree with the module's leaves comes out."""

import equinox as eqx
import jax
import jax.numpy as jnp

import qpass

model, x = eqx.nn.MLP(16, 4, 32, depth=1, key=jax.random.key(0)), jnp.ones(16)
q = qpass.transform(model, [qpass.Rule(path="layers/*/weight", weight="int8", act="int8")])

grads = eqx.filter_jit(eqx.filter_grad(lambda q, x: q(x).sum()))(q, x)
q = eqx.apply_updates(q, jax.tree.map(lambda g: -0.1 * g, grads))

served = q.quantize(x)
assert isinstance(served.module.layers[0].weight, qpass.QTensor)
assert (eqx.filter_jit(served)(x) == eqx.filter_jit(q)(x)).all()

batch = jax.vmap(qpass.transform(model, [qpass.Rule(weight="int8")]))(jnp.ones((8, 16)))
assert batch.shape == (8, 4)
