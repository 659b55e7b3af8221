"""Keys without their mean over positions, as SageAttention smooths them.

``q · k = q · (k - mean) + q · mean``. The first product is quantized: what the keys of all
positions have in common, which may be many times what tells them apart, takes no part of the range.
The second is one column, in float; a softmax over positions does not see it, other functions do.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from qpass.ops.dot_general import float_dot
from qpass.ops.dot_spec import DotSpec


def without_mean(spec: DotSpec, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``k`` without its mean over positions, and the product of ``q`` with that mean.

    Args:
        spec: of the product of ``q`` and ``k``.
        q: queries, float.
        k: keys, float; positions are its axes that are neither contracted nor in a batch.

    Returns:
        an array like ``k``, and one that is broadcast to the product's result.
    """
    contract, batch = (part[spec.weight] for part in spec.dims)
    positions = tuple(d for d in range(k.ndim) if d not in (*contract, *batch))
    mean = jnp.mean(k, positions, keepdims=True).astype(k.dtype)
    return k - mean, float_dot(replace(spec, sharding=None), q, mean)
