"""XLA's convolution of integers, which its library for CPU is fast at in one layout alone.

Codes that lie otherwise are convolved a hundred times more slowly, so their layout is fixed. A
program that leaves this machine may not say so, and gets the convolution of floats.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from qpass.graph._jax import Primitive, ShapedArray, batching, mlir, stays_here
from qpass.ops.window import Window

integer_conv_p = Primitive("integer_conv")


def integer_conv(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of integers, exact where the program stays on this machine.

    Args:
        image: int8 ``[N, *spatial, C]``, padded.
        kernel: int8 ``[*spatial, I, O]``.
        window: of operands in this order.

    Returns:
        float32 ``[N, *spatial, O]``.
    """
    return integer_conv_p.bind(image, kernel, window=window)


def _here(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    total = window.convolve(_row_major(image), _row_major(kernel), jnp.int32, None)
    return total.astype(jnp.float32)


def _elsewhere(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    lhs, rhs = (side.astype(jnp.float32) for side in (image, kernel))
    return window.convolve(lhs, rhs, jnp.float32, None)


def _row_major(x: jax.Array) -> jax.Array:
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def _abstract(image: Any, kernel: Any, *, window: Window) -> ShapedArray:
    n, *_ = image.shape
    return ShapedArray((n, *window.result(image, kernel), kernel.shape[-1]), jnp.dtype("float32"))


def _lower(ctx: Any, image: Any, kernel: Any, *, window: Window) -> Any:
    function = partial(_here if stays_here(ctx) else _elsewhere, window=window)
    return mlir.lower_fun(function, multiple_results=False)(ctx, image, kernel)


def _batch(arrays: Any, dims: Any, *, window: Window) -> tuple[jax.Array, int]:
    """A loop over what is mapped."""
    (image, kernel), (of_image, of_kernel) = arrays, dims
    size = image.shape[of_image] if of_image is not None else kernel.shape[of_kernel]

    def one(k: jax.Array) -> jax.Array:
        return integer_conv(_at(image, of_image, k), _at(kernel, of_kernel, k), window)

    return lax.map(one, jnp.arange(size)), 0


def _at(x: jax.Array, dim: int | None, k: jax.Array) -> jax.Array:
    return x if dim is None else lax.dynamic_index_in_dim(x, k, dim, keepdims=False)


def _jitted(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return integer_conv_p.bind(image, kernel, window=window)


integer_conv_p.def_impl(jax.jit(_jitted, static_argnames="window"))
integer_conv_p.def_abstract_eval(_abstract)
batching.primitive_batchers[integer_conv_p] = _batch
mlir.register_lowering(integer_conv_p, _lower)
