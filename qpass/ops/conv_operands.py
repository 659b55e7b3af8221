"""Operands of a convolution: codes as the ways to compute it take them, and scales for its result.

A scale is never multiplied before the window is summed over. Where an activation has zero points,
its padding has their value: zero points are taken off after that, or the padding is filled with
them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import Operand, QTensor, kernel_codes
from qpass.ops.asked import quantized_in_place
from qpass.ops.dot_spec import DotSpec
from qpass.ops.window import Window

type Act = QTensor | jax.Array


def quantized(dot: DotSpec, x: Any, w: QTensor) -> Act:
    """The activation as a form gets it, where only shapes count."""
    if dot.act is None:
        return x
    return quantized_in_place(dot, x, w, {"key": jax.random.key(0)})


def as_floats(x: Act, dtype: Any) -> tuple[jax.Array, jax.Array | None]:
    """Codes less their zero points as floats, and what these are multiplied by afterwards."""
    if not isinstance(x, QTensor):
        return x.astype(dtype), None
    x = x.plain().in_order()
    codes, unit, shift = kernel_codes(x.codes, x.qtype)
    value = codes.astype(dtype)
    if x.zero is not None:
        value = value - (x.zero.astype(dtype) - shift)
    return value, x.scale * unit


def scale_of(x: Act) -> jax.Array | None:
    """The scales of an activation as `as_floats` has them."""
    return as_floats(x, jnp.dtype("float32"))[1]


def scaled(
    dot: DotSpec, window: Window, total: jax.Array, x: jax.Array | None, w: jax.Array | None
) -> jax.Array:
    """A sum of codes times the scales of both operands."""
    out = window.numbers.out_spec
    if x is not None:
        total = total * _along(x, window.numbers.lhs_spec[0], out[0])
    if w is not None:
        total = total * _along(w, window.numbers.rhs_spec[0], out[1])
    return total.astype(dot.out)


def _along(scale: jax.Array, axis: int, place: int) -> jax.Array:
    """Scales along one axis of an operand, along one of the result."""
    ndim = scale.ndim
    flat = lax.squeeze(scale, [d for d in range(ndim) if d != axis])
    return lax.expand_dims(flat, [d for d in range(ndim) if d != place])


def image_of(window: Window, x: Act) -> Operand:
    """The padded input ``[N, *spatial, C]``, scales and zero points ``[1, N, 1]``."""
    example, feature, *spatial = window.numbers.lhs_spec
    order = (example, *spatial, feature)
    if not isinstance(x, QTensor):
        image = lax.transpose(x, order)
        return Operand(window.padded(image, jnp.zeros((), x.dtype)), None, None, 0)
    flat = x.canonical((), (example,), order[1:])
    image = lax.reshape(flat.codes, tuple(x.shape[d] for d in order))
    fill = _fill(x, flat)
    return flat._replace(codes=window.padded(image, fill.astype(image.dtype)))


def _fill(x: QTensor, flat: Operand) -> jax.Array:
    """The code of zero: one for all examples, or for each."""
    if flat.zero is None:
        return jnp.zeros(())
    return flat.zero[0, 0, 0] if x.scale.size == 1 else flat.zero[0, :, 0]


def of_examples(zero: jax.Array, more: int) -> jax.Array:
    """``[1, N, 1]`` as ``[N, 1, …]`` with that many axes after the first."""
    return lax.reshape(zero, (zero.shape[1], *[1] * more))
