"""Reshape of a quantized tensor: which scales can follow.

A reshape falls apart into segments: runs of old axes and runs of new axes with equal products.
Inside a segment the scales are described by factors of its size, major first: an axis that shares
its scale is `(n, shared)`, one with a scale per index `(n, indexed)`, and one that is cut in groups
`(n / group, indexed), (group, shared)`. The new axes take their sizes from these factors, minor
first. An axis made of `indexed` then `shared` factors is cut in groups, one of a single kind is
shared or has a scale per index, and any other cannot be described: the reshape is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import lax

from qpass.errors import QuantizeError
from qpass.numerics.axes import pick
from qpass.numerics.layout import groups_of, has_sums_for, in_order, plain, rebuild

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor


@dataclass(frozen=True)
class Factor:
    """A part of an axis: its size, and whether each index has a scale of its own."""

    size: int
    indexed: bool


@dataclass(frozen=True)
class Segment:
    """A run of old axes that becomes a run of new axes; axes of size 1 are left out of both."""

    old: tuple[int, ...]
    new: tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """The scales along a new axis: how many, and the group size (0 where it is not grouped)."""

    count: int
    group: int = 0


def reshape(q: QTensor, sizes: tuple[int, ...]) -> QTensor | None:
    """`lax.reshape`, or None where the scales cannot follow.

    Codes are moved into logical order first where a segment is not a run of physical axes.

    Raises:
        QuantizeError: the new sizes have another product.
    """
    if sizes == q.shape:
        return q
    if math.prod(sizes) != q.size:
        raise QuantizeError(f"Give sizes with product {q.size} for {q.shape}; got {sizes}.")
    if q.size == 0:
        return None  # Any segments would do, so that none is the right one.
    q = plain(q)
    segments = split_segments(q.shape, sizes)
    cuts = _cut_axes(q, sizes, segments)
    return None if cuts is None else _move(q, sizes, segments, cuts)


def split_segments(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[Segment, ...]:
    """The shortest runs of axes with equal products, in order."""
    olds, news = (tuple(a for a, n in enumerate(s) if n != 1) for s in (old, new))
    found = []
    while olds:
        i = j = 1
        while (a := math.prod(pick(old, olds[:i]))) != (b := math.prod(pick(new, news[:j]))):
            i, j = (i + 1, j) if a < b else (i, j + 1)
        found.append(Segment(olds[:i], news[:j]))
        olds, news = olds[i:], news[j:]
    return tuple(found)


def _cut_axes(
    q: QTensor, sizes: tuple[int, ...], segments: tuple[Segment, ...]
) -> dict[int, Cut] | None:
    """The scales along every new axis that is not of size 1; None where there is no such."""
    cuts: dict[int, Cut] = {}
    for segment in segments:
        found = _cut_segment(q, sizes, segment)
        if found is None:
            return None
        cuts |= zip(segment.new, found, strict=True)
    return cuts


def _cut_segment(q: QTensor, sizes: tuple[int, ...], segment: Segment) -> list[Cut] | None:
    if len(segment.old) == len(segment.new) == 1:
        axis = segment.old[0]
        return [Cut(q.scale.shape[q.physical(axis)], groups_of(q).get(axis, 0))]
    factors = _factors(q, segment.old)
    return None if factors is None else _distribute(factors, pick(sizes, segment.new))


def _factors(q: QTensor, axes: tuple[int, ...]) -> list[Factor] | None:
    """The factors of a run of axes, neighbours of one kind merged; None for a short last group."""
    factors: list[Factor] = []
    for axis in axes:
        n, group = q.shape[axis], q.blocks[axis]
        if n % group:
            return None
        _push(factors, Factor(n // group, indexed=True))
        _push(factors, Factor(group, indexed=False))
    return factors


def _push(factors: list[Factor], factor: Factor) -> None:
    if factors and factors[-1].indexed == factor.indexed:
        factors[-1] = Factor(factors[-1].size * factor.size, factor.indexed)
    elif factor.size > 1:
        factors.append(factor)


def _distribute(factors: list[Factor], sizes: tuple[int, ...]) -> list[Cut] | None:
    """The scales along axes of those sizes that use the factors up, the last axis first."""
    cuts: list[Cut] = []
    for size in reversed(sizes):
        taken = _take(factors, size)
        if taken is None or [f.indexed for f in taken] not in ([True], [False], [True, False]):
            return None
        cuts.insert(0, _as_cut(taken))
    return cuts


def _take(factors: list[Factor], size: int) -> list[Factor] | None:
    """Take factors with that product off the minor end; None where one would have to break."""
    taken: list[Factor] = []
    while size > 1:
        factor = factors.pop()
        if factor.size % size == 0:
            _push(factors, Factor(factor.size // size, factor.indexed))
            factor = Factor(size, factor.indexed)
        if size % factor.size:
            return None
        taken.insert(0, factor)
        size //= factor.size
    return taken


def _as_cut(taken: list[Factor]) -> Cut:
    if len(taken) == 2:
        return Cut(taken[0].size, group=taken[1].size)
    return Cut(taken[0].size if taken[0].indexed else 1)


def _move(
    q: QTensor, sizes: tuple[int, ...], segments: tuple[Segment, ...], cuts: dict[int, Cut]
) -> QTensor:
    order = _new_order(q, segments)
    if order is None:
        return _move(in_order(q), sizes, segments, cuts)
    order = _with_units(order, sizes)
    counts = tuple(cuts[axis].count if axis in cuts else 1 for axis in order)
    return rebuild(
        q,
        lax.reshape(q.codes, pick(sizes, order)),
        lambda scale: lax.reshape(scale, counts),
        order,
        {axis: cut.group for axis, cut in cuts.items() if cut.group},
        lambda x: lax.reshape(x, sizes),
        _sums(q, sizes, segments, order),
    )


def _sums(
    q: QTensor, sizes: tuple[int, ...], segments: tuple[Segment, ...], order: tuple[int, ...]
) -> jax.Array | None:
    """The column sums; None where some, but not all old axes of a segment are summed over."""
    if q.sums is None:
        return None
    counts: dict[int, int] = {}
    for old, new in ((segment.old, segment.new) for segment in segments):
        own = [has_sums_for(q, (axis,)) for axis in old]
        if any(own) != all(own):
            return None
        counts |= {axis: sizes[axis] if own[0] else 1 for axis in new}
    return lax.reshape(q.sums, [counts.get(axis, 1) for axis in order])


def _new_order(q: QTensor, segments: tuple[Segment, ...]) -> tuple[int, ...] | None:
    """The new axes (not of size 1) in physical order; None where a segment is not one run."""
    left = [axis for axis in q.physical_order if q.shape[axis] != 1]
    by_first = {segment.old[0]: segment for segment in segments}
    order: list[int] = []
    while left:
        segment = by_first.get(left[0])
        if segment is None or tuple(left[: len(segment.old)]) != segment.old:
            return None
        order += segment.new
        left = left[len(segment.old) :]
    return tuple(order)


def _with_units(order: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Put new axes of size 1 before the axis that follows them; leading ones stay leading."""
    runs: dict[int, list[int]] = {}
    waiting: list[int] = []
    for axis, n in enumerate(sizes):
        waiting.append(axis)
        if n != 1:
            runs[axis], waiting = waiting, []
    first = min(runs, default=0)
    lead = [axis for axis in runs.get(first, ()) if axis != first]
    middle = [axis for a in order for axis in runs[a] if axis not in lead]
    return (*lead, *middle, *waiting)
