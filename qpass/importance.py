"""Importance: how much an error in each element of a weight counts, from captured statistics.

An error e in ``w[k, n]`` changes the product ``x @ w`` by ``x[k] * e``, so over many x its square
counts ``E[x[k]^2]`` times. That mean square is captured at the sites that read a weight; here it is
brought back to the weight's leaf, along the layout operations between the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from qpass.errors import CalibrationError
from qpass.graph.dimensions import dimensions, expert_axis, told_apart
from qpass.graph.provenance import Origin
from qpass.graph.replay import replayed
from qpass.numerics import AbsMax, Quantizer, WeightedMse
from qpass.ops.weights import Storage, weighs
from qpass.plan import Decision, Plan
from qpass.stats import Gathered

SMALL = 4
"""Bits up to which ranges are searched for by importance where rules name none."""


def searched(plan: Plan, stats: Mapping[str, Any] | None) -> Plan:
    """The plan whose small integers have a range that weighs errors, where their rule names none.

    Those of which nothing was captured by channel stay as they are.
    """
    readers: dict[int, list[Decision]] = {}
    for decision in plan.decisions:
        if decision.stored and decision.site.leaf is not None:
            readers.setdefault(decision.site.leaf, []).append(decision)
    known = {name for name, state in (stats or {}).items() if "squares" in state}

    def change(leaf: int, storage: Storage) -> Storage:
        quantizer = storage.quantizer
        if not _is_open(quantizer) or not {d.site.id for d in readers[leaf]} <= known:
            return storage
        return replace(storage, quantizer=quantizer.ranged(WeightedMse()))

    storage = {leaf: change(leaf, s) for leaf, s in plan.storage.items()}
    return replace(plan, storage=MappingProxyType(storage))


def _is_open(quantizer: Quantizer) -> bool:
    small = quantizer.qtype.kind == "int" and quantizer.qtype.bits <= SMALL
    return small and quantizer.range == AbsMax() and not quantizer.is_learned


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
    decided = (d for d in plan.decisions if d.stored and d.site.role != "lookup")
    readers = [d for d in decided if d.site.leaf == leaf]
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
    own, _ = told_apart(decision.site.eqn, decision.quantized.weight)
    return frozenset().union(*(_origin(decision).axes[d] for d in own))


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
    return _to_leaf(plan, decision, _means(decision, Gathered(site.id, state)))


def _means(decision: Decision, seen: Gathered) -> jax.Array:
    """Mean squares with the axes that are summed over apart; of an unseen expert, of all others."""
    act = 1 - decision.quantized.weight
    contract, _ = dimensions(decision.site.eqn)
    shape = decision.site.eqn.invars[act].aval.shape
    mean, rows = seen.square, seen.count
    if expert_axis(decision.site.eqn) is not None:
        known = jnp.expand_dims(rows, range(rows.ndim - mean.ndim, 0))
        lead = rows.ndim - 1
        total = jnp.sum(mean * known, axis=lead, keepdims=True)
        together = total / jnp.maximum(jnp.sum(known, axis=lead, keepdims=True), 1)
        mean = jnp.where(known > 0, mean, together)
    return mean.reshape(*mean.shape[:-1], *(shape[d] for d in contract[act]))


def _to_leaf(plan: Plan, decision: Decision, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The means of a site, one for each iteration and channel, brought back to the leaf.

    The layout operations are linear, so their transposes add up all that is multiplied by each
    element of the leaf.
    """
    site, weight = decision.site, decision.quantized.weight
    aval, origin = plan.program.jaxpr.invars[site.leaf].aval, _origin(decision)
    mean = _of_slices(mean, plan.iterations(decision.site), origin, aval.shape, site.id)
    replay = partial(replayed, origin.steps)
    apart, summed = told_apart(site.eqn, weight)
    like = jax.ShapeDtypeStruct(aval.shape, jnp.float32)
    full = jnp.broadcast_to(
        _at_axes(mean, (*apart, *summed), site.eqn.invars[weight].aval.ndim),
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
