"""How the factors of an adapter follow their weight to a product.

A factor lies beside its weight: it has all axes of the leaf, of size 1 along those that only the
other factor has, and the rank last. Layout operations move it as they move the weight. The axes
that scans take slices of come first, one for each scan, outermost first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import JaxprEqn
from qpass.graph.dataflow import Key
from qpass.graph.provenance import Step, reshape_groups


@dataclass(frozen=True)
class Factor:
    """A factor on its way.

    Attributes:
        array: ``[scans .., dimensions of the weight .., rank]``.
        scans: the scans that took a slice so far, by call path and index.
        shape: the weight's shape here.
    """

    array: jax.Array
    scans: tuple[Key, ...]
    shape: tuple[int, ...]

    def moved(self, array: jax.Array, shape: Sequence[int]) -> "Factor":
        """Another array for a weight of another shape."""
        return replace(self, array=array, shape=tuple(shape))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The array's own sizes along the weight's dimensions."""
        return self.array.shape[len(self.scans) : -1]

    def laid(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The array's shape with these sizes along the weight's dimensions."""
        n = len(self.scans)
        return (*self.array.shape[:n], *sizes, self.array.shape[-1])


class NotFollowedError(Exception):
    """A layout operation that a factor cannot follow; the text names it."""


def follow_steps(factor: Factor, steps: Sequence[Step]) -> Factor:
    """The factor beside the weight after these layout operations.

    Raises:
        NotFollowedError: one of them moves only a part of what the factor lies along.
    """
    for step in steps:
        factor = _sliced(factor, step) if step.eqn is None else _moved(factor, step.eqn)
    return factor


def _moved(factor: Factor, eqn: JaxprEqn) -> Factor:
    rule = STEPS.get(eqn.primitive.name)
    moved = factor if rule is None else rule(factor, eqn)
    if moved is None:
        raise NotFollowedError(f"the {eqn.primitive.name} before it")
    return moved


def _sliced(factor: Factor, step: Step) -> Factor:
    if factor.sizes[0] != factor.shape[0]:
        raise NotFollowedError("the scan before it, which takes slices of what it contracts")
    assert step.scan is not None
    return Factor(factor.array, (*factor.scans, step.scan), factor.shape[1:])


def _transpose(factor: Factor, eqn: JaxprEqn) -> Factor:
    n, perm = len(factor.scans), eqn.params["permutation"]
    order = (*range(n), *(n + d for d in perm), factor.array.ndim - 1)
    return factor.moved(lax.transpose(factor.array, order), [factor.shape[d] for d in perm])


def _squeeze(factor: Factor, eqn: JaxprEqn) -> Factor:
    gone = {d % len(factor.shape) for d in eqn.params["dimensions"]}
    sizes = [size for d, size in enumerate(factor.sizes) if d not in gone]
    shape = [size for d, size in enumerate(factor.shape) if d not in gone]
    return factor.moved(jnp.reshape(factor.array, factor.laid(sizes)), shape)


def _reshape(factor: Factor, eqn: JaxprEqn) -> Factor | None:
    new = eqn.params["new_sizes"]
    sizes = list(new)
    if eqn.params.get("dimensions") is not None:
        return None
    for ins, outs in reshape_groups(factor.shape, new):
        own, full = [factor.sizes[d] for d in ins], [factor.shape[d] for d in ins]
        if own == full:
            continue
        if any(size != 1 for size in own):
            return None  # contracted and free axes become one
        for d in outs:
            sizes[d] = 1
    return factor.moved(jnp.reshape(factor.array, factor.laid(sizes)), new)


def _broadcast(factor: Factor, eqn: JaxprEqn) -> Factor | None:
    """Axes of size 1 may be added; along others the weight would be repeated."""
    new, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    if any(new[d] != size for d, size in zip(places, factor.shape, strict=True)):
        return None
    if any(size != 1 for d, size in enumerate(new) if d not in places):
        return None
    sizes = [1] * len(new)
    for d, size in zip(places, factor.sizes, strict=True):
        sizes[d] = size
    return factor.moved(jnp.reshape(factor.array, factor.laid(sizes)), new)


def _slice(factor: Factor, eqn: JaxprEqn) -> Factor:
    p, n = eqn.params, len(factor.scans)
    array, strides = factor.array, p["strides"] or (1,) * len(factor.shape)
    cuts = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    for d, (start, limit, stride) in enumerate(cuts):
        if factor.sizes[d] == factor.shape[d]:
            array = lax.slice_in_dim(array, start, limit, stride, axis=n + d)
    return factor.moved(array, eqn.outvars[0].aval.shape)


def _whole(factor: Factor, eqn: JaxprEqn) -> Factor | None:
    """A slice at an index that is known when the program runs; only one of everything is none."""
    return factor if eqn.params["slice_sizes"] == factor.shape else None


def _rev(factor: Factor, eqn: JaxprEqn) -> Factor:
    n = len(factor.scans)
    return factor.moved(
        lax.rev(factor.array, [n + d for d in eqn.params["dimensions"]]), factor.shape
    )


# What is not here changes neither shape nor order of what a product sees.
STEPS: Mapping[str, Callable[[Factor, JaxprEqn], Factor | None]] = MappingProxyType(
    {
        "broadcast_in_dim": _broadcast,
        "dynamic_slice": _whole,
        "reshape": _reshape,
        "rev": _rev,
        "slice": _slice,
        "squeeze": _squeeze,
        "transpose": _transpose,
    }
)


def with_scans(factor: Factor, around: Sequence[tuple[Key, int]]) -> jax.Array:
    """The array with a leading axis for each scan around a site, as a site is fed.

    Args:
        factor: at the site.
        around: the scans, outermost first, each with its length. Those that took no slice of the
            weight have the same factor in each iteration.
    """
    own = iter(factor.array.shape[: len(factor.scans)])
    sizes = [next(own) if scan in factor.scans else 1 for scan, _ in around]
    rest = factor.array.shape[len(factor.scans) :]
    array = jnp.reshape(factor.array, (*sizes, *rest))
    return jnp.broadcast_to(array, (*(length for _, length in around), *rest))


def as_factor(array: Any, leaf_shape: Sequence[int]) -> Factor:
    """The factor beside its leaf."""
    return Factor(array, (), tuple(leaf_shape))
