"""Products that read a cache: its codes are multiplied, its scales wherever they do not vary.

A scale of a whole row of what the product gives, as of a key in ``QK``, multiplies the result: what
every product with a quantized operand does. A scale of what is summed over, as of a value in
``PV``, multiplies the other operand before the product. Where it also varies in groups along an
axis of the result, every group is a product of its own. There zero points are taken off the result:
what they add to it is the same for all that share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import QTensor
from qpass.numerics.axes import inverse
from qpass.ops.axes_of_product import Dims
from qpass.ops.dot_general import float_dot, quantized_dot
from qpass.ops.dot_spec import DotSpec
from qpass.ops.straight_through import dequantize, straight_through


def cached_dot(spec: DotSpec, x: jax.Array, w: QTensor, fed: Any = None) -> jax.Array:
    """The product of ``x`` and a part of a cache, in ``dot_general``'s own output layout.

    Args:
        spec: dimension numbers, which operand ``w`` is, and how to quantize ``x``.
        x: float array.
        w: a part of a cache.
        fed: what the site is handed from outside; None for nothing.
    """
    contract = spec.dims[0][spec.weight]
    if not _varies(w, contract):
        return quantized_dot(spec, x, w, fed)
    if w.latent is not None:  # gradients as if it were a float product
        value = cached_dot(spec, x, replace(w, latent=None), fed)
        return straight_through(value, float_dot(spec, x, dequantize(w)))
    pairs = zip(w.blocks, w.shape, strict=True)
    grouped = [axis for axis, (block, n) in enumerate(pairs) if 1 < block < n]
    if spec.sharding is not None or _uneven(w, grouped):
        return float_dot(spec, x, dequantize(w))
    if grouped:
        return _by_groups(spec, x, w, grouped[0], fed)
    return _of_codes(spec, x, w, fed)


def _of_codes(spec: DotSpec, x: jax.Array, w: QTensor, fed: Any) -> jax.Array:
    """The product with ``w``, all scales and zero points of which are one along its free axes."""
    w = w.plain()
    x = _scaled(spec, x, w)
    out = quantized_dot(spec, x, _codes(w), fed)
    if w.zero is None:
        return out
    zero = w.zero.astype(jnp.float32) - w.qtype.middle
    offset = lax.transpose(zero, inverse(w.physical_order))
    exact = replace(spec, out="float32", sharding=None)
    return (out - float_dot(exact, x.astype(jnp.float32), offset)).astype(out.dtype)


def _varies(w: QTensor, contract: Sequence[int]) -> bool:
    """Whether there is a scale for each index of an axis that is summed over."""
    return any(w.blocks[axis] == 1 and w.shape[axis] > 1 for axis in contract)


def _uneven(w: QTensor, grouped: Sequence[int]) -> bool:
    return len(grouped) > 1 or any(w.shape[axis] % w.blocks[axis] for axis in grouped)


def _scaled(spec: DotSpec, x: jax.Array, w: QTensor) -> jax.Array:
    """``x`` times the scales of what it is multiplied by, which are one along the free axes."""
    (contract, batch), side = spec.dims, spec.weight
    theirs, own = (*contract[1 - side], *batch[1 - side]), (*contract[side], *batch[side])
    scale = lax.transpose(w.scale, inverse(w.physical_order))
    place = dict(zip(own, theirs, strict=True))
    kept = sorted(own)
    scale = lax.squeeze(scale, [axis for axis in range(w.ndim) if axis not in place])
    shape = [1] * x.ndim
    for axis, n in zip(kept, scale.shape, strict=True):
        shape[place[axis]] = n
    scale = lax.broadcast_in_dim(scale, shape, [place[axis] for axis in kept])
    return (x.astype(jnp.float32) * scale).astype(x.dtype)


def _codes(w: QTensor) -> QTensor:
    """``w`` without scales and zero points."""
    return replace(w, scale=jnp.ones((1,) * w.ndim, jnp.float32), zero=None, groups=())


def _by_groups(spec: DotSpec, x: jax.Array, w: QTensor, axis: int, fed: Any) -> jax.Array:
    """The product with a free axis of ``w`` cut in its groups, which are counted as a batch."""
    block = w.blocks[axis]
    count = w.shape[axis] // block
    cut = w.reshape((*w.shape[:axis], count, block, *w.shape[axis + 1 :]))
    assert cut is not None  # groups divide the axis
    x = lax.broadcast_in_dim(x, (*x.shape, count), range(x.ndim))
    inner = replace(spec, dims=_with_groups(spec, x.ndim - 1, axis))
    out = _of_codes(inner, x, cut, fed)
    batch = len(spec.dims[1][0])
    out = jnp.moveaxis(out, batch, _place(spec, x.ndim - 1, axis))
    return lax.reshape(out, _result_shape(spec, x.shape[:-1], w.shape))


def _with_groups(spec: DotSpec, last: int, axis: int) -> Dims:
    """Dimension numbers with the groups: the last axis of ``x``, before the rest in ``w``."""
    after = lambda d: d + (d >= axis)  # noqa: E731
    side = spec.weight
    sides = [list(pair) for pair in zip(*spec.dims, strict=True)]
    contract, batch = sides[side]
    sides[side] = [tuple(map(after, contract)), (*map(after, batch), axis)]
    sides[1 - side][1] = (*sides[1 - side][1], last)
    (lc, lb), (rc, rb) = sides
    return (lc, rc), (lb, rb)


def _place(spec: DotSpec, x_ndim: int, axis: int) -> int:
    """Where the groups stand in the result: right before what was cut."""
    (contract, batch), side = spec.dims, spec.weight
    taken = {*contract[side], *batch[side]}
    before = sum(d not in taken for d in range(axis))
    others = x_ndim - len(contract[0]) - len(batch[0]) if side == 1 else 0
    return len(batch[0]) + others + before


def _result_shape(spec: DotSpec, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, ...]:
    (contract, batch), side = spec.dims, spec.weight
    free = [
        [n for d, n in enumerate(shape) if d not in (*contract[k], *batch[k])]
        for k, shape in ((1 - side, x), (side, w))
    ]
    first, last = free if side == 1 else reversed(free)
    return (*(x[d] for d in batch[1 - side]), *first, *last)
