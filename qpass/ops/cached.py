"""A cache inside of a program: codes and scales that are updated where the float array would be.

What is written is quantized once, in the blocks of the cache, and written into codes, scales and
zero points alike. The rest of the cache is not touched and never decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.lax import ScatterDimensionNumbers

from qpass.graph._jax import JaxprEqn, bind
from qpass.graph.states import scattered_windows
from qpass.numerics import PerEntry, QTensor, Quantizer, quantize
from qpass.numerics.axes import inverse, pick
from qpass.ops.layout import apply_layout

type Blocks = tuple[int, ...]


@partial(jax.tree_util.register_dataclass, data_fields=["tensor"], meta_fields=["quantizer"])
@dataclass(frozen=True, eq=False)
class Cached:
    """A cache, or a part of one.

    Attributes:
        tensor: its codes and scales. With a latent float array where it came as floats.
        quantizer: of what is written; which elements share a scale follows from the tensor.
    """

    tensor: QTensor
    quantizer: Quantizer

    @property
    def latent(self) -> jax.Array | None:
        """The float array that receives gradients."""
        return self.tensor.latent


def apply_cached(eqn: JaxprEqn, operands: Sequence[Any]) -> Any | None:
    """Apply an update or a layout equation; None where codes and scales cannot follow."""
    cached, *others = operands
    if eqn.primitive.name == "optimization_barrier":
        return list(lax.optimization_barrier(list(operands)))
    if not isinstance(cached, Cached):
        return None
    if eqn.primitive.name in UPDATES:
        return UPDATES[eqn.primitive.name](eqn, cached, *others)
    if any(isinstance(other, Cached) for other in others):
        return None
    moved = apply_layout(eqn, [cached.tensor, *others])
    return None if moved is None else replace(cached, tensor=moved)


def _update_slice(eqn: JaxprEqn, cached: Cached, update: Any, *starts: Any) -> Cached | None:
    """``dynamic_update_slice``; where scales are shared the start is moved to the only one."""
    q = cached.tensor
    new = _entry(cached, update, q.blocks)
    if new is None:
        return None
    order = q.physical_order
    own_starts = pick(starts, order)
    return _written(
        cached,
        new,
        lambda old, part: bind(eqn, [old, _in_order_of(part, new, order), *own_starts])[0],
        lambda old, part: bind(eqn, [old, part, *starts])[0],
    )


def _scatter(eqn: JaxprEqn, cached: Cached, indices: jax.Array, update: Any) -> Cached | None:
    """``scatter``, with its dimension numbers those of the order in which codes lie."""
    q = cached.tensor
    windows = scattered_windows(eqn)
    blocks = [1] * eqn.invars[2].aval.ndim
    for block, place in zip(q.blocks, windows, strict=True):
        if place is not None:
            blocks[place] = block
    new = _entry(cached, update, tuple(blocks))
    if new is None:
        return None
    perm, numbers = _scatter_in_order(eqn, windows, q.physical_order)
    params = {**eqn.params, "dimension_numbers": numbers}

    def write(old: jax.Array, part: jax.Array) -> jax.Array:
        return bind(eqn, [old, indices, _in_order_of(part, new, perm)], params)[0]

    return _written(cached, new, write, lambda old, part: bind(eqn, [old, indices, part])[0])


UPDATES: dict[str, Callable] = {"dynamic_update_slice": _update_slice, "scatter": _scatter}


def _entry(cached: Cached, update: Any, blocks: Blocks) -> QTensor | None:
    """What is written, with a scale for each of those blocks; a part of a cache as it is.

    The barriers keep the compiler from rounding it otherwise than the float that is stored.
    """
    if isinstance(update, Cached):
        same = _as_wide(update.tensor, blocks) and update.tensor.qtype == cached.tensor.qtype
        return update.tensor if same else None
    sizes = [min(block, n) for block, n in zip(blocks, update.shape, strict=True)]
    granularity = PerEntry(tuple((d - update.ndim, size) for d, size in enumerate(sizes)))
    quantizer = replace(cached.quantizer, granularity=granularity)
    q = quantize(lax.optimization_barrier(update), quantizer, ())
    return replace(lax.optimization_barrier(q), latent=update)


def _as_wide(q: QTensor, blocks: Blocks) -> bool:
    """Whether as many elements share a scale, along axes where there are several."""
    sizes = zip(q.blocks, blocks, q.shape, strict=True)
    return all(own == block or n == 1 for own, block, n in sizes)


def _written(cached: Cached, new: QTensor, write: Callable, write_logical: Callable) -> Cached:
    """The cache with an entry written into codes, scales, zero points, and the latent array.

    XLA would fuse what reads it with the write, and do that twice, on a copy of the whole cache.
    """
    q = cached.tensor
    latent = None
    if q.latent is not None and new.latent is not None:
        latent = write_logical(q.latent, new.latent)
    pairs = (q.codes, new.codes), (q.scale, new.scale), (q.zero, new.zero)
    written = tuple(write(old, part) for old, part in pairs if old is not None)
    codes, scale, *zero = lax.optimization_barrier(written)
    kept = replace(q, codes=codes, scale=scale, zero=zero[0] if zero else None, latent=latent)
    return replace(cached, tensor=kept)


def _in_order_of(array: jax.Array, q: QTensor, order: Sequence[int]) -> jax.Array:
    """Codes or scales of q with its logical axes in that order."""
    return lax.transpose(array, tuple(map(q.physical, order)))


def _scatter_in_order(
    eqn: JaxprEqn, windows: Sequence[int | None], order: Sequence[int]
) -> tuple[tuple[int, ...], ScatterDimensionNumbers]:
    """A scatter into codes that lie in another order: of the updates' axes, and its numbers.

    The windows of an update follow each other as the dimensions do that they are written to.
    """
    numbers: ScatterDimensionNumbers = eqn.params["dimension_numbers"]
    place = inverse(order)
    moved = iter([w for axis in order if (w := windows[axis]) is not None])
    is_window = set(numbers.update_window_dims)
    ndim = eqn.invars[2].aval.ndim
    perm = tuple(next(moved) if d in is_window else d for d in range(ndim))
    paired = zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    batching = sorted((place[d], of) for d, of in paired)
    return perm, ScatterDimensionNumbers(
        update_window_dims=numbers.update_window_dims,
        inserted_window_dims=tuple(sorted(place[d] for d in numbers.inserted_window_dims)),
        scatter_dims_to_operand_dims=tuple(place[d] for d in numbers.scatter_dims_to_operand_dims),
        operand_batching_dims=tuple(d for d, _ in batching),
        scatter_indices_batching_dims=tuple(of for _, of in batching),
    )
