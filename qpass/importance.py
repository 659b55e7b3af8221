"""Importance: how much an error in each element of a weight counts, from captured statistics.

An error e in ``w[k, n]`` changes the product ``x @ w`` by ``x[k] * e``, so over many x its square
counts ``E[x[k]^2]`` times. That mean square is captured at the sites that read a weight; here it is
brought back to the weight's leaf, along the layout operations between the two.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp

from qpass.errors import CalibrationError
from qpass.given import iterations_of
from qpass.graph._jax import bind
from qpass.graph.dimensions import dimensions
from qpass.graph.provenance import Origin, Step
from qpass.ops.weights import weighs
from qpass.plan import Decision, Plan

# Layout operations that move elements; all others leave each in its place.
_MOVES = frozenset(
    {"broadcast_in_dim", "dynamic_slice", "reshape", "rev", "slice", "squeeze", "transpose"}
)


def leaf_importance(plan: Plan, stats: Mapping[str, Any] | None, leaf: int) -> jax.Array | None:
    """The mean square of what a stored leaf is multiplied by; None unless its range weighs errors.

    Args:
        plan: which leaves are stored, and how.
        stats: captured statistics; None for none.
        leaf: index of the input.

    Returns:
        float32 with the leaf's number of axes: its sizes along the axes that are contracted or
        stacked, 1 along the others. The mean over the sites that read it.

    Raises:
        CalibrationError: the statistics lack a site that reads the leaf.
    """
    storage = plan.storage[leaf]
    if not weighs(storage.quantizer):
        return None
    readers = [d for d in plan.decisions if d.stored and d.site.leaf == leaf]
    kept = {*storage.contract, *storage.separate}.union(*map(_batch_axes, readers))
    free = tuple(d for d in range(plan.program.jaxpr.invars[leaf].aval.ndim) if d not in kept)
    both = [_of_site(plan, decision, stats or {}) for decision in readers]
    total, reads = (
        jnp.sum(jnp.stack(parts), axis=(0, *(d + 1 for d in free)), keepdims=True)[0]
        for parts in zip(*both, strict=True)
    )
    return _mean(total, reads, storage.separate)


def _mean(total: jax.Array, reads: jax.Array, stacked: tuple[int, ...]) -> jax.Array:
    """The mean of each element's reads; of one that none is known of, that of the whole stack.

    A slice whose place is computed is taken for the first of its axis, as is one in a loop over
    layers: what was captured there is of all layers together.
    """
    together, known = (jnp.sum(part, axis=stacked, keepdims=True) for part in (total, reads))
    rest = jnp.where(known > 0, together / jnp.maximum(known, 1), jnp.sum(total) / jnp.sum(reads))
    return jnp.where(reads > 0, total / jnp.maximum(reads, 1), rest)


def _origin(decision: Decision) -> Origin:
    origin = decision.site.flows[decision.quantized.weight]
    assert isinstance(origin, Origin)  # as of every operand that is stored
    return origin


def _batch_axes(decision: Decision) -> frozenset[int]:
    """Axes of the leaf that its product does not sum over and shares with the activation."""
    _, batch = dimensions(decision.site.eqn)
    axes = _origin(decision).axes
    return frozenset().union(*(axes[d] for d in batch[decision.quantized.weight]))


def _of_site(
    plan: Plan, decision: Decision, stats: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """For each element of the leaf, the mean squares summed over its reads, and their number."""
    site = decision.site
    state = stats.get(site.id, {})
    if "squares" not in state:
        raise CalibrationError(
            "quantize with statistics of the activations, as q.quantize(..., stats=q.capture(...))"
            f": the range of {site.weight_path} ({decision.quantized.quantizer}) weighs errors by "
            f"them, and there are none of its product {site.id}. (In a shard_map none are kept: "
            "take 'mse'.)"
        )
    channels = state["squares"].ndim - state["rows"].ndim
    rows = jnp.expand_dims(state["rows"], range(-channels, 0))
    return _to_leaf(plan, decision, state["squares"] / jnp.maximum(rows, 1))


def _to_leaf(plan: Plan, decision: Decision, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The means of a site, one for each iteration and channel, brought back to the leaf.

    The layout operations are linear, so their transposes add up all that is multiplied by each
    element of the leaf.
    """
    site, weight = decision.site, decision.quantized.weight
    aval, origin = plan.program.jaxpr.invars[site.leaf].aval, _origin(decision)
    mean = _of_slices(mean, iterations_of(plan, decision), origin, aval.shape, site.id)
    replay = partial(_replay, origin.steps)
    like = jax.ShapeDtypeStruct(aval.shape, jnp.float32)
    contract, batch = dimensions(site.eqn)
    shared = (*batch[weight], *contract[weight])
    full = jnp.broadcast_to(
        _at_axes(mean, shared, site.eqn.invars[weight].aval.ndim),
        jax.eval_shape(replay, like).shape,
    )
    pull = jax.linear_transpose(replay, like)
    return pull(full)[0], pull(jnp.ones_like(full))[0]


def _at_axes(mean: jax.Array, axes: Sequence[int], ndim: int) -> jax.Array:
    """The last axes of ``mean`` at these axes of an operand of ``ndim`` axes, the others of size 1.

    What leads stays in front: one operand for each iteration.
    """
    lead = mean.ndim - len(axes)
    order = sorted(range(len(axes)), key=lambda k: axes[k])
    mean = jnp.transpose(mean, (*range(lead), *(lead + k for k in order)))
    return jnp.expand_dims(mean, [lead + d for d in range(ndim) if d not in axes])


def _of_slices(
    mean: jax.Array, lengths: tuple[int, ...], origin: Origin, shape: tuple[int, ...], site: str
) -> jax.Array:
    """The means for each slice that scans take of the leaf; over the other scans, their mean."""
    sliced = shape[: sum(step.eqn is None for step in origin.steps)]
    ways = [
        kept
        for kept in combinations(range(len(lengths)), len(sliced))
        if tuple(lengths[k] for k in kept) == sliced
    ]
    if len(ways) != 1:
        raise CalibrationError(
            f"take the range 'mse' for the weight of {site}: it cannot be told which of the "
            f"scans of lengths {lengths} around it runs over the stack."
        )
    return jnp.mean(mean, axis=tuple(k for k in range(len(lengths)) if k not in ways[0]))


def _replay(steps: Sequence[Step], x: jax.Array) -> Any:
    """The leaf as its product reads it; one for each iteration of the scans that slice it."""
    for k, step in enumerate(steps):
        if step.eqn is None:
            return jax.vmap(partial(_replay, steps[k + 1 :]))(x)
        if step.eqn.primitive.name in _MOVES:
            zeros = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in step.eqn.invars[1:]]
            (x,) = bind(step.eqn, [x, *zeros])
    return x
