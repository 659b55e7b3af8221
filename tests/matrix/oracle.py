"""What the matrix holds qpass against; nothing in here uses qpass.

Int8 weight-only quantization of a model is the float model on rounded weights. So the reference is
the model itself, given its weights through a straight-through rounding written by hand, along axes
that each model states in words of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Weights = Mapping[str, tuple[int, ...]]
CONTRACTIONS = ("dot_general", "ragged_dot_general", "conv_general_dilated")


def rounded(w: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """To int8 and back: one scale for each index of the axes that are not contracted.

    The least scale that clips nothing when the larger side has the 128 codes below zero.
    """
    above, below = (jnp.max(side, axis=axes, keepdims=True, initial=0) for side in (w, -w))
    larger, smaller = jnp.maximum(above, below), jnp.minimum(above, below)
    scale = jnp.maximum(larger / 128, smaller / 127)
    scale = jnp.where(larger == 0, 1.0, jnp.where(above > below, -scale, scale))
    return jnp.clip(jnp.round(w / scale), -128, 127) * scale


def path_of(keys: tuple) -> str:
    """A leaf's path as users of its framework write it; NNX's variables end in ``value``."""
    return jax.tree_util.keystr(keys, simple=True, separator="/").removesuffix("/value")


def on_weights(params: Any, weights: Weights, change: Callable) -> Any:
    """``params`` with ``change(leaf, axes)`` in place of every weight.

    Raises:
        KeyError: a weight is no leaf of ``params``.
    """
    missing = dict(weights)

    def leaf(keys, value):
        axes = missing.pop(path_of(keys), None)
        return value if axes is None else change(value, axes)

    changed = jax.tree_util.tree_map_with_path(leaf, params)
    if missing:
        raise KeyError(f"no leaves of the model: {sorted(missing)}")
    return changed


def reference(apply: Callable, weights: Weights, on: jax.Array) -> Callable:
    """``apply`` on rounded weights, gradients straight through; as it is where ``on`` is 0."""

    def straight_through(w, axes):
        return w + on * lax.stop_gradient(rounded(w, axes) - w)

    return lambda params, x: apply(on_weights(params, weights, straight_through), x)


def same_bits(got: Any, wanted: Any) -> bool:
    """Equal trees of equal types, bit for bit."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    return all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in map(_plain, pairs)
    )


def distance(got: Any, wanted: Any) -> float:
    """The largest difference of two trees, relative to the largest value of each leaf, or to 1.

    Raises:
        ValueError: shapes or types differ.
    """
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    return max((_apart(a, b) for a, b in map(_plain, pairs)), default=0.0)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        raise ValueError(f"{a.dtype}{a.shape} is not {b.dtype}{b.shape}")
    top = max(1.0, float(np.max(np.abs(b), initial=0)))
    off = float(np.max(np.abs(np.float64(a) - np.float64(b)), initial=0)) / top
    return off if np.isfinite(off) else np.inf


def _plain(pair: tuple) -> tuple[np.ndarray, ...]:
    return tuple(
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in pair
    )
