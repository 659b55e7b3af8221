"""Merging states of delayed scaling that several runs of one step gave."""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.errors import StateError
from qpass.suggest import shortened


def merge_states(*states: Any, axis: int | None = None, over: Any = None) -> Any:
    """The state of one step from those that its parts gave, all from the same earlier state.

    Parts are micro-batches whose gradients are accumulated, examples of a `jax.vmap`, or devices of
    a `jax.shard_map` around the step. Each magnitude is the largest of them, as if the parts had
    been one: sums and means, as of gradients, would be wrong.

    Args:
        *states: states after the step; of one or more parts.
        axis: an axis of every array that the parts lie along, as `jax.vmap` and `jax.lax.scan`
            give them; None for none.
        over: names of mesh axes that the parts lie along, inside of a `jax.shard_map`; None for
            none.

    Returns:
        a state, without ``axis``.

    Raises:
        StateError: no state, or states of different programs.
    """
    if not states:
        raise StateError("Give merge_states the states that the parts of a step gave; got none.")
    _check_alike(states)
    merged = reduce(partial(jax.tree.map, jnp.maximum), states)
    if axis is not None:
        merged = jax.tree.map(lambda array: jnp.max(array, axis), merged)
    return merged if over is None else jax.tree.map(partial(lax.pmax, axis_name=over), merged)


def _check_alike(states: tuple) -> None:
    first, *others = map(_shapes, states)
    differ = [
        name for other in others for name in first | other if first.get(name) != other.get(name)
    ]
    if differ:
        raise StateError(
            f"Merge states of one program; these differ in {shortened(dict.fromkeys(differ), 5)}."
        )


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator=" "): jnp.shape(array)
        for path, array in jax.tree.leaves_with_path(state)
    }
