"""A leaf as its product reads it: the layout operations between the two, done again."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qpass.graph._jax import bind
from qpass.graph.dataflow import Key
from qpass.graph.provenance import Step

# Layout operations that move elements; all others leave each in its place.
_MOVES = frozenset(
    {"broadcast_in_dim", "dynamic_slice", "reshape", "rev", "slice", "squeeze", "transpose"}
)


def replayed(steps: Sequence[Step], x: jax.Array, at: Mapping[Key, Any] | None = None) -> Any:
    """An array of the shape of a leaf, moved as the leaf is on its way to a product.

    A slice whose place is computed is taken for the first of its axis.

    Args:
        steps: of the product's `qpass.graph.provenance.Origin`.
        x: of any dtype.
        at: the iteration of each scan, by its call path and index, for what is read then; None for
            all of them, one for each iteration of the scans that slice it.
    """
    for k, step in enumerate(steps):
        if step.eqn is None:
            if at is None:
                return jax.vmap(partial(replayed, steps[k + 1 :]))(x)
            x = x[at[step.scan]]
        elif step.eqn.primitive.name in _MOVES:
            zeros = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in step.eqn.invars[1:]]
            (x,) = bind(step.eqn, [x, *zeros])
    return x
