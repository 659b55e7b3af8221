"""Casts to float32 and roundings in float32 that are really done.

Inside a program XLA may keep the float32 result of a narrow operation when it is cast back to
float32 right away, so codes would differ from those of the array seen from outside.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def as_f32(x: jax.Array) -> jax.Array:
    """Cast to float32 a value that really has been rounded to its own dtype."""
    return widened(held(x))


def held(x: jax.Array) -> jax.Array:
    """An array whose parts `widened` may cast one by one, which takes no memory for the whole."""
    # `reduce_precision` would flush the subnormals of f16, which are ordinary numbers here.
    narrow = x.dtype.itemsize < 4 and x.dtype != jnp.bfloat16
    return lax.optimization_barrier(x) if narrow else x


def widened(x: jax.Array) -> jax.Array:
    """Cast to float32 an array from `held`, or a part of it.

    The forced rounding of a bf16 array changes nothing in a value that has it already.
    """
    y = x.astype(jnp.float32)
    return rounded(y, x.dtype) if x.dtype == jnp.bfloat16 else y


def rounded(y: jax.Array, dtype: np.dtype) -> jax.Array:
    """A float32 array rounded to a float dtype, still in float32; the same array for float32."""
    if dtype == jnp.bfloat16:
        return lax.reduce_precision(y, exponent_bits=8, mantissa_bits=7)
    return as_f32(y.astype(dtype)) if dtype.itemsize < 4 else y
