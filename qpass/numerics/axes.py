"""Axes as plain integers: permutations, orders, block counts. Knows no arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

type Axes = tuple[int, ...]


def count_blocks(n: int, block: int) -> int:
    """How many scales an axis of n elements has when `block` neighbours share one.

    An axis that is shared as a whole has one scale even when it is empty.
    """
    return 1 if block == n else -(-n // block)


def inverse(perm: Sequence[int]) -> Axes:
    """The permutation that undoes `perm`: `inverse(perm)[perm[i]] == i`."""
    places = {axis: place for place, axis in enumerate(perm)}
    return tuple(places[axis] for axis in range(len(perm)))


def full_order(order: Axes, ndim: int) -> Axes:
    """Logical axes 0.. in physical order, from the stored form (negative, trailing axes only)."""
    lead = ndim - len(order)
    return (*range(lead), *(axis + ndim for axis in order))


def trim_order(full: Sequence[int]) -> Axes:
    """The stored form of a physical order: leading axes that lie in their place are left out.

    Written with negative axes, so that it stays right when a leading axis is taken away or added.
    """
    ndim = len(full)
    lead = next((i for i, axis in enumerate(full) if axis != i), ndim)
    return tuple(axis - ndim for axis in full[lead:])


def pick[T](values: Sequence[T], axes: Iterable[int]) -> tuple[T, ...]:
    """The values at those positions, in the order asked."""
    return tuple(values[axis] for axis in axes)
