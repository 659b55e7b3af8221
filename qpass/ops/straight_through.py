"""Dequantization that gradients pass through unchanged (straight-through estimator).

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import QTensor, Quantizer
from qpass.numerics.clipping import in_range


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


def without_clipped(x: jax.Array, q: QTensor, quantizer: Quantizer) -> jax.Array:
    """``x``, through which no gradient flows where a masked quantizer clips it.

    The value is ``x`` itself in any case, so that the compiler drops the mask where nothing is
    differentiated.

    Args:
        x: the float array.
        q: what it is quantized to.
        quantizer: by what.
    """
    if not quantizer.is_masked:
        return x
    return jnp.where(in_range(x, q, quantizer), x, lax.stop_gradient(x))
