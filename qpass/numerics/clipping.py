"""Which elements a quantized tensor clips: the mask of masked straight-through gradients.

The gradient of `clip(round(x / scale) + zero, qmin, qmax)` with rounding taken for the identity is
1 where nothing is clipped and 0 elsewhere, as PyTorch's `fake_quantize` has it. An element counts
as clipped where it lies more than half a step beyond the outermost values; so what rounds to one
of them is not, nor is the largest magnitude of a block, whose quotient may miss its code by one
rounding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.axes import inverse
from qpass.numerics.formulas import places
from qpass.numerics.qtensor import QTensor
from qpass.numerics.qtypes import QType
from qpass.numerics.quantizer import Quantizer


def in_range(x: jax.Array, q: QTensor, quantizer: Quantizer) -> jax.Array:
    """Whether each element lies in the range that the codes of its block cover.

    Args:
        x: the float array, in logical order.
        q: x quantized by `quantizer`.
        quantizer: its rounding does not matter: the mask is that of rounding to nearest.

    Returns:
        bool array of the shape of x; infinities are out of range, NaN is too.
    """
    q = q.plain()
    x = lax.transpose(lax.stop_gradient(x), q.physical_order)
    zero = None if q.zero is None else q.zero.astype(jnp.float32)
    y = places(x, q.scale, zero, q.physical_blocks, quantizer.nearest())
    least, greatest = quantizer.spoken.limits(quantizer.qtype, quantizer.symmetric)
    below, above = half_steps(quantizer.qtype)
    inside = jnp.isfinite(x) & (y >= least - below) & (y <= greatest + above)
    return lax.transpose(inside, inverse(q.physical_order))


def half_steps(qtype: QType) -> tuple[float, float]:
    """Half of the distance between the two least values of a type, and the two greatest.

    0 for integer types, whose codes are rounded before they are clipped.
    """
    if qtype.kind == "int":
        return 0.0, 0.0
    if qtype.kind == "table":
        values = np.unique(np.asarray(qtype.table, np.float32))
        return float(values[1] - values[0]) / 2, float(values[-1] - values[-2]) / 2
    info = jnp.finfo(qtype.dtype)
    half = 2.0 ** (np.floor(np.log2(qtype.qmax)) - info.nmant - 1)
    return half, half
