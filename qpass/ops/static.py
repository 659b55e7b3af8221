"""Static operands: one range for all of it, known before the product runs."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from qpass.numerics import PerTensor, Quantizer

type Bounds = tuple[jax.Array, jax.Array]


def whole_range(
    quantizer: Quantizer, bounds: Bounds | None, ndim: int
) -> tuple[Quantizer, Bounds | None]:
    """What an operand is really quantized with.

    A static operand has one range, so one scale, for all of it. Where its site is fed none, as
    while ranges are captured, that is the range of the whole operand at hand.

    Args:
        quantizer: as the rule says.
        bounds: scalars ``(lo, hi)`` that the site is fed for this operand; None for none.
        ndim: the operand's number of axes.

    Returns:
        the quantizer, and the bounds with ``ndim`` axes of size 1.
    """
    if not quantizer.is_static:
        return quantizer, None
    whole = replace(quantizer, granularity=PerTensor(), is_static=bounds is not None)
    if bounds is None:
        return whole, None
    lo, hi = (jnp.reshape(bound, (1,) * ndim) for bound in bounds)
    return whole, (lo, hi)
