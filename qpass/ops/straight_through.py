"""Dequantization that gradients pass through unchanged (straight-through estimator).

Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons" (2013).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

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


def without_clipped(
    x: jax.Array,
    q: QTensor,
    quantizer: Quantizer,
    bounds: tuple[jax.Array, jax.Array] | None = None,
    features: int = 0,
) -> jax.Array:
    """``x``, through which no gradient flows where a masked quantizer clips it.

    The value is ``x`` itself in any case, so that the compiler drops the mask where nothing is
    differentiated.

    Args:
        x: the float array.
        q: what it is quantized to.
        quantizer: by what.
        bounds: its range, to which gradients flow as well where that is learned.
        features: see `_learned`.
    """
    if not quantizer.is_masked:
        return x
    inside = in_range(x, q, quantizer)
    kept = jnp.where(inside, x, lax.stop_gradient(x))
    if bounds is None or not quantizer.is_learned:
        return kept
    return kept + _learned(x, inside, q, quantizer, bounds, features).astype(x.dtype)


def _learned(
    x: jax.Array,
    inside: jax.Array,
    q: QTensor,
    quantizer: Quantizer,
    bounds: tuple[jax.Array, jax.Array],
    features: int,
) -> jax.Array:
    """Zero, with the derivative of the quantized value by its range.

    The value is ``step * code``; its derivative by the step is ``(value - x) / step`` where ``x``
    is not clipped, and the code where it is (Esser et al., "Learned Step Size Quantization", 2020).
    Their factor ``1 / sqrt(features * Qp)`` keeps its size beside those of weights.

    Args:
        x: the float array.
        inside: what is not clipped.
        q: what it is quantized to.
        quantizer: by what.
        bounds: ``(lo, hi)``, scalars or of the shape of the scales.
        features: how many elements count for one scale; 0: all that share it.
    """
    least, greatest = quantizer.spoken.limits(quantizer.qtype, True)
    step = _step(*bounds, -least, greatest)
    count = features or x.size // step.size
    held = lax.stop_gradient(step)
    size = _spread(held, q)
    moved = q.dequantize().astype(jnp.float32) - jnp.where(inside, x, 0).astype(jnp.float32)
    slope = jnp.where(size > 0, moved / jnp.where(size > 0, size, 1), 0)
    return _spread(step - held, q) * lax.stop_gradient(slope) / math.sqrt(count * greatest)


def _step(lo: jax.Array, hi: jax.Array, below: float, above: float) -> jax.Array:
    """The step between codes, from the range: the larger side lies on that with more codes."""
    short, long = sorted((below, above))
    return jnp.maximum(jnp.maximum(-lo, hi) / long, jnp.minimum(-lo, hi) / short)


def _spread(bound: jax.Array, q: QTensor) -> jax.Array:
    """One value for each element, from one for each scale or for all."""
    if bound.size == 1:
        return jnp.reshape(bound, (1,) * q.ndim)
    for axis, (block, size) in enumerate(zip(q.blocks, q.shape, strict=True)):
        if bound.shape[axis] not in (1, size):
            wide = jnp.repeat(bound, block, axis)
            bound = lax.slice_in_dim(wide, 0, size, axis=axis)
    return bound


def tangent_of(out: jax.Array, *parts: tuple[Any, Callable[[jax.Array], jax.Array]]) -> jax.Array:
    """The tangent of a product ``out``: the sum of what comes of each operand's tangent.

    Args:
        out: the product.
        *parts: tangents, None or symbolic zeros for none, each with what multiplies it by the
            other operand.
    """
    terms = [times(t) for t, times in parts if t is not None and not isinstance(t, SymbolicZero)]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)
