"""Comparisons of whole results, and what the properties are asked of."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from tests.rewriting.oracle import total


def transformed(fn: Callable, *rules: qpass.Rule) -> Any:
    """Transformed by rules that may fit nothing in a random program."""
    return qpass.transform(fn, rules, strict=False)


def same_bits(got: Any, wanted: Any) -> None:
    """Equal trees, shapes, dtypes and bits (but for the sign of zero and the bits of a NaN)."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(*(np.asarray(a, np.float32) for a in (one, other)))


def near(got: Any, wanted: Any, tolerance: float) -> None:
    """Equal trees, shapes and dtypes, finite, values within ``tolerance`` of the largest one."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    largest = max([1.0, *(float(jnp.max(jnp.abs(a))) for a in jax.tree.leaves(wanted))])
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        one, other = (np.asarray(a, np.float32) for a in (one, other))
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)


def loss(fn: Callable) -> Callable:
    """A smooth number that every result takes part in."""
    return lambda p, x: total([out.astype(jnp.float32) for out in fn(p, x)])


def value_and_slopes(fn: Callable, wrt: tuple[int, ...] = (0, 1)) -> Callable:
    """``(results, gradients)`` of ``fn(p, x)``."""

    def both(p, x):
        return fn(p, x), jax.grad(loss(fn), wrt)(p, x)

    return both


def directions(tree: Any, seed: int) -> Any:
    """Random arrays like those of a tree."""
    rng = np.random.RandomState(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), a.dtype), tree)


def inner(one: Any, other: Any) -> float:
    """The inner product of two trees."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return sum(
        float(np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64))) for a, b in pairs
    )
