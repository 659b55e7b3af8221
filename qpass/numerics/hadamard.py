"""The Hadamard transform of Transformer Engine's NVFP4 recipe, which spreads outliers over 16.

Sixteen numbers become sums and differences of all of them, ``(x * SIGNS) @ H / 4`` with Sylvester's
matrix ``H`` of ones and minus ones. It is orthogonal: a sum of products along an axis is the same
where both operands are transformed along it. Additions in a fixed order make it, so that it is the
same number on every device, and no product of floats ("Pretraining Large Language Models with
NVFP4", 2025, section 4.2).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BITS = 4
ORDER = 2**BITS
# Drawn once, for all steps and all products: those of Transformer Engine.
SIGNS = (1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1)


def mixed(x: jax.Array, axis: int) -> jax.Array:
    """Each 16 numbers along an axis transformed, float32; zeros fill up the last ones.

    Args:
        x: float array.
        axis: not negative; its length becomes a multiple of 16.
    """
    size, rest = x.shape[axis], x.shape[axis + 1 :]
    widths = [(0, -size % ORDER if d == axis else 0) for d in range(x.ndim)]
    x = jnp.pad(x.astype(jnp.float32), widths)
    whole, blocks = x.shape, x.shape[axis] // ORDER
    signs = np.reshape(np.asarray(SIGNS, np.float32), (*(2,) * BITS, *(1,) * len(rest)))
    x = jnp.reshape(x, (*whole[:axis], blocks, *(2,) * BITS, *rest)) * signs
    for bit in range(axis + 1, axis + 1 + BITS):
        one, other = lax.index_in_dim(x, 0, bit), lax.index_in_dim(x, 1, bit)
        x = lax.concatenate([one + other, one - other], bit)
    return jnp.reshape(x, whole) / ORDER**0.5
