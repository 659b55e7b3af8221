"""Slices of a quantized tensor: where the scales of the slice lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.numerics.axes import pick
from qpass.numerics.layout import (
    groups_of,
    has_sums_for,
    plain_along,
    rebuild,
    stored,
    stored_as,
    stored_sizes,
)

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor

type Index = int | jax.Array


@dataclass(frozen=True)
class Window:
    """The scales (or elements) that a slice keeps along one axis, and its group size afterwards.

    `start` may be traced in a dynamic slice; `group` is 0 where the slice is not grouped any more.
    """

    start: Index
    size: int
    stride: int = 1
    group: int = 0

    @property
    def limit(self) -> Index:
        """One past the last scale that the window may reach."""
        return self.start + max(self.size - 1, 0) * self.stride + min(self.size, 1)


def slice_(
    q: QTensor, start: tuple[int, ...], limit: tuple[int, ...], strides: tuple[int, ...]
) -> QTensor | None:
    """`lax.slice`; packed codes stay so where their last axis stays whole."""
    asked = list(enumerate(zip(start, limit, strides, strict=True)))
    q = plain_along(q, [axis for axis, where in asked if where != (0, q.shape[axis], 1)])
    windows = _all([_window(q, axis, *where) for axis, where in asked])
    if windows is None:
        return None
    order = q.physical_order
    limits = stored_sizes(q.codes, pick(limit, order))
    codes = lax.slice(stored(q.codes), pick(start, order), limits, pick(strides, order))
    kept = [Window(a, -(-(b - a) // by), by) for _, (a, b, by) in asked]
    return rebuild(
        q,
        stored_as(q.codes, codes),
        lambda scale: lax.slice(scale, *_static(pick(windows, order))),
        order,
        _groups(windows),
        lambda x: lax.slice(x, start, limit, strides),
        _sums_of(q, kept, lambda sums, windows: lax.slice(sums, *_static(windows))),
    )


def dynamic_slice(q: QTensor, starts: Sequence[Index], sizes: tuple[int, ...]) -> QTensor | None:
    """`lax.dynamic_slice` as the primitive has it: starts out of range are moved in.

    A negative start therefore means 0; it does not count from the end. Packed codes stay so where
    their last axis stays whole.
    """
    q = plain_along(q, [axis for axis, size in enumerate(sizes) if size != q.shape[axis]])
    asked = [Window(*where) for where in zip(starts, sizes, strict=True)]
    windows = _all([_dynamic_window(q, axis, w.start, w.size) for axis, w in enumerate(asked)])
    if windows is None:
        return None
    order = q.physical_order
    lengths = stored_sizes(q.codes, pick(sizes, order))
    return rebuild(
        q,
        stored_as(q.codes, _dynamic_slice(stored(q.codes), pick(starts, order), lengths)),
        lambda scale: _dynamic_window_of(scale, pick(windows, order)),
        order,
        _groups(windows),
        lambda x: _dynamic_slice(x, starts, sizes),
        _sums_of(q, asked, _dynamic_window_of),
    )


def _sums_of(
    q: QTensor, kept: Sequence[Window], cut_out: Callable[[jax.Array, list[Window]], jax.Array]
) -> jax.Array | None:
    """The column sums of a slice; None where it cuts what they sum.

    Args:
        q: the tensor.
        kept: the elements of the slice, by logical axis.
        cut_out: what slices an array in physical order.
    """
    cut = [axis for axis, window in enumerate(kept) if window.size != q.shape[axis]]
    if q.sums is None or not has_sums_for(q, cut):
        return None
    sizes = zip(q.physical_order, q.sums.shape, strict=True)
    return cut_out(q.sums, [kept[axis] if axis in cut else Window(0, n) for axis, n in sizes])


def _window(q: QTensor, axis: int, start: int, limit: int, stride: int) -> Window | None:
    """The scales of a static slice along one axis, or None where it cuts groups unequally."""
    group, size = groups_of(q).get(axis), -(-(limit - start) // stride)
    if _is_shared(q, axis) or (size == 0 and group):
        return Window(0, 1)
    if group is None:
        return Window(start, size, stride)
    return _grouped_window(group, start, size, stride)


def _grouped_window(group: int, start: int, size: int, stride: int) -> Window | None:
    """Either all in one group, or groups apart, or whole groups thinned out evenly."""
    first, last = start // group, (start + (size - 1) * stride) // group
    if first == last:
        return Window(first, 1)
    if stride % group == 0:
        return Window(first, size, stride // group)
    if start % group >= stride or group % stride:
        return None
    return Window(first, last - first + 1, group=group // stride)


def _dynamic_window(q: QTensor, axis: int, start: Index, size: int) -> Window | None:
    """The scales of a dynamic slice along one axis, or None where groups are cut who knows where.

    A single element lies in one group wherever it is.
    """
    n, group = q.shape[axis], groups_of(q).get(axis)
    if size == n or _is_shared(q, axis):
        return Window(0, q.scale.shape[q.physical(axis)], group=group or 0)
    if group is None:
        return Window(start, size)
    if isinstance(start, int | np.integer):
        start = min(max(int(start), 0), n - size)
        return _window(q, axis, start, start + size, 1)
    return Window(jnp.clip(start, 0, n - 1) // group, 1) if size == 1 else None


def _is_shared(q: QTensor, axis: int) -> bool:
    """Whether one scale serves several elements along an axis."""
    return q.scale.shape[q.physical(axis)] == 1 and q.shape[axis] != 1


def _all(windows: list[Window | None]) -> tuple[Window, ...] | None:
    found = tuple(w for w in windows if w is not None)
    return found if len(found) == len(windows) else None


def _static(windows: Sequence[Window]) -> tuple[list, list, list]:
    return (
        [w.start for w in windows],
        [w.limit for w in windows],
        [w.stride for w in windows],
    )


def _groups(windows: Sequence[Window]) -> dict[int, int]:
    return {axis: w.group for axis, w in enumerate(windows) if w.group}


def _dynamic_window_of(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    return _dynamic_slice(x, [w.start for w in windows], [w.size for w in windows])


def _dynamic_slice(x: jax.Array, starts: Sequence[Index], sizes: Sequence[int]) -> jax.Array:
    starts = [jnp.asarray(start, jnp.int32) for start in starts]
    return lax.dynamic_slice(x, starts, sizes, allow_negative_indices=False)
