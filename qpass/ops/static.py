"""Static operands: one range for all of it, known before the product runs."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from qpass.numerics import AbsMax, PerTensor, PowerOfTwo, Quantizer

type Bounds = tuple[jax.Array, jax.Array]


def whole_range(
    quantizer: Quantizer, bounds: Bounds | None, ndim: int
) -> tuple[Quantizer, Bounds | None]:
    """What an operand is really quantized with.

    A static operand has one range, so one scale, for all of it. Where its site is fed none, as
    while ranges are captured, that is the range of the whole operand at hand.

    The learned range of a weight has bounds of the shape of its scales, which stay as they are.

    Args:
        quantizer: as the rule says.
        bounds: scalars ``(lo, hi)`` that the site is fed for this operand; None for none.
        ndim: the operand's number of axes.

    Returns:
        the quantizer, and the bounds with ``ndim`` axes of size 1.
    """
    if not quantizer.is_static:
        return quantizer, bounds if quantizer.is_learned else None
    if bounds is None:
        return replace(_dynamic(quantizer), granularity=PerTensor(), is_static=False), None
    whole = replace(quantizer, granularity=PerTensor())
    lo, hi = (jnp.reshape(bound, (1,) * ndim) for bound in bounds)
    return whole, (lo, hi)


def _dynamic(quantizer: Quantizer) -> Quantizer:
    """A delayed range replaced by that of the values at hand."""
    if quantizer.delayed_range is None:
        return quantizer
    power = isinstance(quantizer.range, PowerOfTwo)
    return replace(quantizer, range=PowerOfTwo() if power else AbsMax())
