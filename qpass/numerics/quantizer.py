"""From a float array to a quantized tensor: which neighbours share a scale, and the whole step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from qpass.errors import QuantizeError
from qpass.numerics.axes import trim_order
from qpass.numerics.dialects import QPASS
from qpass.numerics.formulas import count_nonfinite, cut_axes, decode, encode, scales
from qpass.numerics.granularity import Granularity, PerGroup, PerTensor, Quantizer
from qpass.numerics.qtensor import QTensor

__all__ = ["block_sizes", "count_nonfinite", "decode", "encode", "quantize", "scales"]


def block_sizes(
    shape: tuple[int, ...],
    granularity: Granularity,
    contract: tuple[int, ...],
    separate: tuple[int, ...] = (),
) -> tuple[int, ...]:
    """How many neighbours share a scale along each axis: 1 (none) up to `shape[d]` (all).

    The axes come from the dimension numbers of the contraction, never from a name.

    Args:
        shape: the shape of the tensor.
        granularity: PerTensor shares every axis; PerChannel the contracted axes; PerGroup cuts the
            last axis of `contract` in groups and gives every other axis a scale per index.
        contract: the axes that the contraction reduces, innermost last.
        separate: axes that always have a scale per index, for example that of stacked layers.

    Returns:
        one block size for each axis.

    Raises:
        QuantizeError: an axis that the shape does not have.
    """
    contract, separate = _checked(contract, shape), _checked(separate, shape)
    shared = _shared(shape, granularity, contract)
    return tuple(1 if d in separate else shared.get(d, 1) for d in range(len(shape)))


def quantize(
    x: jax.Array,
    quantizer: Quantizer,
    contract: tuple[int, ...],
    separate: tuple[int, ...] = (),
    pack: bool = False,
) -> QTensor:
    """Quantize an array for a contraction. No gradient flows into codes or scales.

    Args:
        x: array of any float dtype and shape.
        quantizer: the numeric type, the granularity and the dialect.
        contract: the axes of x that the contraction reduces, innermost last.
        separate: axes that always have a scale per index.
        pack: store codes with the contracted axes last (and the separate ones first), as kernels
            read them; only the metadata tells.

    Returns:
        a QTensor without `latent`; `dataclasses.replace(q, latent=x)` makes it trainable.

    Raises:
        QuantizeError: x is not floating, or an axis does not exist.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise QuantizeError(f"Only float arrays can be quantized; got {x.dtype}{list(x.shape)}.")
    blocks = block_sizes(x.shape, quantizer.granularity, contract, separate)
    order = _packed_order(x.ndim, contract, separate) if pack else tuple(range(x.ndim))
    x = lax.transpose(lax.stop_gradient(x), order)
    physical = tuple(blocks[axis] for axis in order)
    dialect = quantizer.dialect or QPASS
    scale = scales(x, physical, quantizer.qtype, dialect)
    return QTensor(
        codes=encode(x, scale, physical, quantizer.qtype, dialect),
        scale=scale,
        latent=None,
        qtype=quantizer.qtype,
        dtype=jnp.dtype(x.dtype),
        groups=_groups(x.shape, physical, order),
        order=trim_order(order),
    )


def _groups(
    shape: tuple[int, ...], blocks: tuple[int, ...], order: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    pairs = [(order[axis] - len(order), blocks[axis]) for axis in cut_axes(shape, blocks)]
    return tuple(sorted(pairs))


def _packed_order(ndim: int, contract: tuple[int, ...], separate: tuple[int, ...]):
    contract = tuple(a % ndim for a in contract)
    first = tuple(a for a in sorted(s % ndim for s in separate) if a not in contract)
    free = tuple(a for a in range(ndim) if a not in first and a not in contract)
    return (*first, *free, *contract)


def _shared(
    shape: tuple[int, ...], granularity: Granularity, contract: tuple[int, ...]
) -> dict[int, int]:
    """The axes along which more than one element shares a scale, with their block sizes."""
    if isinstance(granularity, PerTensor):
        return dict(enumerate(shape))
    if isinstance(granularity, PerGroup):
        return {d: min(granularity.size, max(shape[d], 1)) for d in contract[-1:]}
    return {d: shape[d] for d in contract}


def _checked(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if bad := [a for a in axes if not -len(shape) <= a < len(shape)]:
        raise QuantizeError(f"Give axes of an array of shape {shape}; got {bad[0]}.")
    return tuple(a % len(shape) for a in axes)
