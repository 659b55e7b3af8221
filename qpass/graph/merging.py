"""How what is tapped at a site is merged over its runs: by sums, maxima or minima.

A site in a loop runs several times, one in a `shard_map` on several devices, one in a branch
perhaps not at all. What a tap returns says itself how its arrays are merged: it is a pytree of
`Sum`, `Max` and `Min`, each around a pytree of arrays. All three are commutative monoids, so that
neither the order of the runs nor their number matters, and each has a neutral element for none.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.graph._jax import varying_axes


def _least(dtype: np.dtype) -> Any:
    return -np.inf if jnp.issubdtype(dtype, np.floating) else jnp.iinfo(dtype).min


def _greatest(dtype: np.dtype) -> Any:
    return np.inf if jnp.issubdtype(dtype, np.floating) else jnp.iinfo(dtype).max


@dataclass(frozen=True, eq=False)
class Merged:
    """Arrays and how they are merged; the base of `Sum`, `Max` and `Min`.

    Attributes:
        value: a pytree of arrays.
        combine: two arrays merged.
        across: an array merged over named mesh axes.
        neutral: the number that changes nothing, for a dtype.
    """

    value: Any
    combine: ClassVar[Callable]
    across: ClassVar[Callable]
    neutral: ClassVar[Callable]


_register = partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])


@_register
@dataclass(frozen=True, eq=False)
class Sum(Merged):
    """Arrays that are added."""

    combine = staticmethod(jnp.add)
    across = staticmethod(lax.psum)
    neutral = staticmethod(lambda dtype: 0)


@_register
@dataclass(frozen=True, eq=False)
class Max(Merged):
    """Arrays of which the greatest counts."""

    combine = staticmethod(jnp.maximum)
    across = staticmethod(lax.pmax)
    neutral = staticmethod(_least)


@_register
@dataclass(frozen=True, eq=False)
class Min(Merged):
    """Arrays of which the least counts."""

    combine = staticmethod(jnp.minimum)
    across = staticmethod(lax.pmin)
    neutral = staticmethod(_greatest)


def merge(one: Any, other: Any) -> Any:
    """Two trees of the same structure merged, each array in its own way."""
    return _map(lambda a, b: type(a)(jax.tree.map(a.combine, a.value, b.value)), one, other)


def neutral(shapes: Any) -> Any:
    """A tree of these shapes and dtypes that changes nothing in `merge`."""

    def fill(node: Merged) -> Merged:
        def like(s: Any) -> Any:
            return _varying(jnp.full(s.shape, node.neutral(s.dtype), s.dtype), varying_axes(s))

        return type(node)(jax.tree.map(like, node.value))

    return _map(fill, shapes)


def across(tree: Any, axes: tuple) -> Any:
    """A tree merged over the devices along these manual mesh axes."""

    def over(node: Merged) -> Merged:
        def total(x: Any) -> Any:
            return node.across(_varying(x, axes) if varying_axes(x) else x, axes)

        return type(node)(jax.tree.map(total, node.value))

    return _map(over, tree)


def _varying(x: Any, axes: Iterable) -> Any:
    missing = tuple(a for a in axes if a not in varying_axes(x))
    return lax.pcast(x, missing, to="varying") if missing else x


def _map(fn: Callable, *trees: Any) -> Any:
    return jax.tree.map(fn, *trees, is_leaf=lambda node: isinstance(node, Merged))
