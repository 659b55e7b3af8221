"""Charges: by which factor each channel of a value is multiplied when a fold is applied.

A fold has a vector of factors ``s``. A value ``v`` that carries a charge becomes
``v * s[ids] ** sign``; what else the program computes stays as it is. Where two charges meet that
ought to be one, their factors have to be equal: such pairs of ids are *tied*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

NONE = -1
"""The id of a channel that no factor belongs to."""

type Ties = list[tuple[np.ndarray, np.ndarray]]


class Refused(Exception):
    """A charge cannot be carried here; the text says why.

    Attributes:
        is_located: whether the text says where.
    """

    is_located: bool = False


@dataclass(frozen=True, eq=False)
class Charge:
    """The factors of one value.

    Attributes:
        ids: int32, for each element the index of its factor, or `NONE`. One axis for each scan
            around the value, then those of the value; an axis along which nothing changes has
            size 1.
        sign: 1 where the value is multiplied by the factors, -1 where it is divided.
        shift: a number that belongs to the value before it is multiplied and is taken off again:
            ``v`` becomes ``(v + shift) * s[ids] ** sign - shift``.
    """

    ids: np.ndarray
    sign: int
    shift: float = 0.0

    def moved(self, ids: np.ndarray) -> Charge:
        """The same factors in another place."""
        return replace(self, ids=shrunk(ids))

    def inverse(self) -> Charge:
        """What cancels this charge in a product."""
        return replace(self, sign=-self.sign)

    @property
    def is_empty(self) -> bool:
        """Whether no channel has a factor."""
        return not np.any(self.ids >= 0)


def shrunk(ids: np.ndarray) -> np.ndarray:
    """The ids with size 1 along each axis on which nothing changes."""
    for axis in range(ids.ndim):
        first = np.take(ids, [0], axis) if ids.shape[axis] else ids
        if ids.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, ids.shape), ids):
            ids = first
    return ids


def joined(one: Charge, other: Charge, ties: Ties) -> tuple[Charge, bool]:
    """The charge of a value that carries both, and whether that is more than ``one``.

    Raises:
        Refused: one multiplies and the other divides, or only one has a constant added.
    """
    if one.sign != other.sign:
        raise Refused("would have to be multiplied by the factors and divided by them")
    if one.shift != other.shift:
        raise Refused("has a constant added that is not multiplied")
    a, b = np.broadcast_arrays(one.ids, other.ids)
    differ = (a >= 0) & (b >= 0) & (a != b)
    if np.any(differ):
        ties.append((a[differ], b[differ]))
    if not np.any((a < 0) & (b >= 0)):
        return one, False
    return one.moved(np.where(a >= 0, a, b)), True


def constant_along(ids: np.ndarray, axes: Sequence[int], ties: Ties) -> np.ndarray:
    """The ids with size 1 along these axes: all factors there have to be equal."""
    axes = tuple(axis for axis in axes if ids.shape[axis] > 1)
    if not axes:
        return ids
    kept = ids.max(axis=axes, keepdims=True)
    whole = np.broadcast_to(kept, ids.shape)
    differ = (ids >= 0) & (ids != whole)
    if np.any(differ):
        ties.append((ids[differ], whole[differ]))
    return kept


def classes(count: int, ties: Ties) -> np.ndarray:
    """For each of ``count`` factors the number of its class of equal ones, from 0."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = np.concatenate([a.ravel() for a, _ in ties]) if ties else np.zeros(0, int)
    columns = np.concatenate([b.ravel() for _, b in ties]) if ties else np.zeros(0, int)
    edges = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return connected_components(edges, directed=False)[1]
