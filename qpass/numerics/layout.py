"""Layout operations on a quantized tensor.

Each takes logical axes. Codes and scales keep their physical order wherever that is possible; the
latent array, which lies in logical order, gets the operation itself. Zero points lie beside the
scales and get what the scales get. Column sums are dropped where they would be of other elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.axes import inverse, pick, trim_order
from qpass.numerics.packing import Packed, unpack

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor


def plain(q: QTensor) -> QTensor:
    """Codes unpacked, scales float32."""
    codes = unpack(q.codes) if isinstance(q.codes, Packed) else q.codes
    return plain_scales(q if codes is q.codes else replace(q, codes=codes))


def plain_scales(q: QTensor) -> QTensor:
    """Scales float32; codes as they are."""
    if q.outer is None and q.scale.dtype == np.float32:
        return q
    return replace(q, scale=q.qtype.scale_format.read(q.scale, q.outer), outer=None)


def plain_along(q: QTensor, touched: Sequence[int]) -> QTensor:
    """Scales float32, and codes unpacked where bytes hold several along an axis that is touched."""
    packed = q.physical_order[-1:] if isinstance(q.codes, Packed) else ()
    return plain(q) if set(packed) & set(touched) else plain_scales(q)


def stored(codes: Any) -> jax.Array:
    """The array that codes lie in: their bytes where they are packed along the last axis."""
    return codes.words if isinstance(codes, Packed) else codes


def stored_sizes(codes: Any, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of a part of codes, as those of the array that they lie in."""
    return (*sizes[:-1], codes.words.shape[-1]) if isinstance(codes, Packed) else sizes


def stored_as(codes: Any, array: jax.Array) -> Any:
    """Codes in that array, of which the last axis is whole, in the form that `codes` have."""
    return replace(codes, words=array) if isinstance(codes, Packed) else array


def transpose(q: QTensor, perm: tuple[int, ...]) -> QTensor:
    """`lax.transpose`; no code moves."""
    place = inverse(perm)
    return rebuild(
        q,
        q.codes,
        lambda scale: scale,
        pick(place, q.physical_order),
        {place[axis]: size for axis, size in groups_of(q).items()},
        lambda x: lax.transpose(x, perm),
        q.sums,
    )


def squeeze(q: QTensor, dims: tuple[int, ...]) -> QTensor:
    """`lax.squeeze`."""
    dims = tuple(d % q.ndim for d in dims)
    q = plain_along(q, dims)
    kept = [axis for axis in range(q.ndim) if axis not in dims]
    place = {axis: i for i, axis in enumerate(kept)}
    gone = tuple(q.physical(d) for d in dims)
    return rebuild(
        q,
        stored_as(q.codes, lax.squeeze(stored(q.codes), gone)),
        lambda scale: lax.squeeze(scale, gone),
        tuple(place[axis] for axis in q.physical_order if axis in place),
        {place[axis]: size for axis, size in groups_of(q).items()},
        lambda x: lax.squeeze(x, dims),
        None if q.sums is None else lax.squeeze(q.sums, gone),
    )


def broadcast_in_dim(q: QTensor, shape: tuple[int, ...], dims: tuple[int, ...]) -> QTensor:
    """`lax.broadcast_in_dim`; the new axes share their scales."""
    q = plain(q)
    moved = pick(dims, q.physical_order)
    new = [axis for axis in range(len(shape)) if axis not in dims]
    order = (*new, *moved) if q.order else tuple(range(len(shape)))
    at = tuple(order.index(axis) for axis in moved)
    scale_shape = [1] * len(shape)
    for place, n in zip(at, q.scale.shape, strict=True):
        scale_shape[place] = n
    return rebuild(
        q,
        lax.broadcast_in_dim(q.codes, pick(shape, order), at),
        lambda scale: lax.broadcast_in_dim(scale, scale_shape, at),
        order,
        {dims[axis]: size for axis, size in groups_of(q).items()},
        lambda x: lax.broadcast_in_dim(x, shape, dims),
    )


def rev(q: QTensor, dims: tuple[int, ...]) -> QTensor | None:
    """`lax.rev`."""
    q = plain(q)
    dims, groups = tuple(d % q.ndim for d in dims), groups_of(q)
    if any(q.shape[d] % groups.get(d, 1) for d in dims):
        return None
    at = tuple(q.physical(d) for d in dims)
    return rebuild(
        q,
        lax.rev(q.codes, at),
        lambda scale: lax.rev(scale, at),
        q.physical_order,
        groups,
        lambda x: lax.rev(x, dims),
        None if q.sums is None else lax.rev(q.sums, at),
    )


def astype(q: QTensor, dtype: np.dtype) -> QTensor | None:
    """`lax.convert_element_type` to another float dtype."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return None
    latent = None if q.latent is None else q.latent.astype(dtype)
    return replace(q, dtype=dtype, latent=latent)


def in_order(q: QTensor) -> QTensor:
    """Codes in logical order."""
    return reorder(q, tuple(range(q.ndim)))


def reorder(q: QTensor, order: tuple[int, ...]) -> QTensor:
    """The same tensor with codes moved into that physical order of logical axes."""
    if order == q.physical_order:
        return q
    q = plain(q)
    perm = tuple(q.physical(axis) for axis in order)
    codes = lax.transpose(q.codes, perm)
    sums = None if q.sums is None else lax.transpose(q.sums, perm)
    return rebuild(
        q, codes, lambda scale: lax.transpose(scale, perm), order, groups_of(q), sums=sums
    )


def stacked(q: QTensor, n: int) -> QTensor:
    """The first n logical axes first in memory, with a scale for each index."""
    rest = tuple(axis for axis in q.physical_order if axis >= n)
    q = reorder(q, (*range(n), *rest))
    if _unpacked_axes(q) < n:
        q = plain(q)
    groups = {axis: size for axis, size in groups_of(q).items() if axis >= n}
    outer = None if q.outer is None else _broadcast_lead(q.outer, q.shape[:n])
    sums = q.sums if has_sums_for(q, range(n)) else None
    own = dict.fromkeys(range(n), 1)
    q = rebuild(q, q.codes, lambda x: finer(q, x, own), q.physical_order, groups, sums=sums)
    return replace(q, outer=outer)


def _unpacked_axes(q: QTensor) -> int:
    """How many leading axes of codes can be indexed: bytes of packed codes hold several."""
    return q.ndim - isinstance(q.codes, Packed)


def _broadcast_lead(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(x, (*sizes, *x.shape[len(sizes) :]))


def regrouped(q: QTensor, blocks: Mapping[int, int]) -> QTensor:
    """The same tensor where no more than that many neighbours share a scale along those axes.

    Each divides the block size that the axis has.
    """
    q = plain(q)
    groups = {**groups_of(q), **blocks}
    kept = {axis: size for axis, size in groups.items() if size > 1}
    order = q.physical_order
    return rebuild(q, q.codes, lambda x: finer(q, x, blocks), order, kept, sums=q.sums)


def has_sums_for(q: QTensor, axes: Iterable[int]) -> bool:
    """Whether there are column sums, with one for each index of those logical axes."""
    sums = q.sums
    return sums is not None and all(sums.shape[q.physical(a)] == q.shape[a] for a in axes)


def finer(q: QTensor, scale: jax.Array, blocks: Mapping[int, int]) -> jax.Array:
    """Scales (or zero points) of q repeated so that no more than `blocks` neighbours share one.

    By logical axis; each divides the block size that the axis has. In physical order, as they came.
    """
    for logical, block in blocks.items():
        axis, n = q.physical(logical), q.shape[logical]
        count = -(-n // block)
        if scale.shape[axis] == 1:
            sizes = (*scale.shape[:axis], count, *scale.shape[axis + 1 :])
            scale = jnp.broadcast_to(scale, sizes)
        elif q.blocks[logical] != block:
            scale = jnp.repeat(scale, q.blocks[logical] // block, axis)
            scale = lax.slice_in_dim(scale, 0, count, axis=axis)
    return scale


def groups_of(q: QTensor) -> dict[int, int]:
    """Group sizes by logical axis, counted from 0."""
    return {axis + q.ndim: size for axis, size in q.groups}


def rebuild(
    q: QTensor,
    codes: Any,
    on_scale: Callable[[jax.Array], jax.Array],
    order: Sequence[int],
    groups: Mapping[int, int],
    on_latent: Callable[[jax.Array], jax.Array] = lambda x: x,
    sums: jax.Array | None = None,
) -> QTensor:
    """A tensor like q with other codes and what becomes of its scales, zero points and latent.

    `order` and `groups` are given with logical axes counted from 0. Without `sums` it has none.
    """
    ndim = len(order)
    return replace(
        q,
        codes=codes,
        scale=on_scale(q.scale),
        zero=None if q.zero is None else on_scale(q.zero),
        sums=sums,
        latent=None if q.latent is None else on_latent(q.latent),
        groups=tuple(sorted((axis - ndim, size) for axis, size in groups.items())),
        order=trim_order(order),
    )
