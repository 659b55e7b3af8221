"""Dequantization that gradients pass through unchanged (straight-through estimator).

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

import jax

from qpass.numerics import QTensor


@jax.custom_jvp
def straight_through(value: jax.Array, latent: jax.Array) -> jax.Array:
    """``value``, with the gradient of ``latent``; both of one shape and dtype."""
    return value


@straight_through.defjvp
def _(primals, tangents):
    return straight_through(*primals), tangents[1]


def dequantize(q: QTensor) -> jax.Array:
    """The float array that ``q`` stands for, in its logical shape and dtype.

    Where ``q`` has a latent float weight, the gradient goes there as if it were the weight.
    """
    value = q.dequantize()
    return value if q.latent is None else straight_through(value, q.latent)
