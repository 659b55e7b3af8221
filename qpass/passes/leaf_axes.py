"""Axes that a quantizer names: those of the operand of a product, and of the leaf that it reads."""

from __future__ import annotations

from dataclasses import replace

from qpass.graph.provenance import Origin
from qpass.numerics import PerChannel, PerTensor, Quantizer


def of_leaf(quantizer: Quantizer, origin: Origin, shape: tuple[int, ...]) -> Quantizer | None:
    """The quantizer of the leaf that gives the operand the scales that `quantizer` asks for.

    Args:
        quantizer: as the rule has it: its axes are those of the operand.
        origin: of the operand.
        shape: of the operand.

    Returns:
        a quantizer whose axes are those of the leaf; None where the leaf has one axis for a named
        axis of the operand and another one.

    Raises:
        QuantizeError: an axis that the operand does not have.
    """
    channels = quantizer.granularity
    if not isinstance(channels, PerChannel) or channels.axes is None:
        return quantizer
    named = channels.named(shape)
    others = [d for d, n in enumerate(shape) if d not in named and n != 1]
    own, shared = (frozenset().union(*(origin.axes[d] for d in dims)) for dims in (named, others))
    if own & shared:
        return None
    axes = tuple(sorted(own))
    return replace(quantizer, granularity=PerChannel(axes) if axes else PerTensor())
