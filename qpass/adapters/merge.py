"""Merge: weights with what their adapters add."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from qpass.adapters.learned import check_learned, weight_ranges
from qpass.adapters.tree import check_adapters
from qpass.errors import CallError
from qpass.keys import leaf_keys
from qpass.numerics import QTensor
from qpass.ops.straight_through import dequantize
from qpass.ops.weights import enter_program
from qpass.plan import Plan
from qpass.suggest import shortened


def merge(
    plan: Plan,
    values: Sequence[Any],
    adapters: Mapping[str, Any],
    key: jax.Array | None,
    ranges: Mapping[str, Any],
) -> list[Any]:
    """The inputs of a program with every adapted weight as one float array.

    To a weight that a rule quantizes, its adapter is added as the product sees it: quantized.

    Args:
        plan: the plan of a call.
        values: its inputs.
        adapters: the adapters.
        key: for weights that are rounded stochastically.
        ranges: those of weights that are learned, by path.

    Raises:
        CallError: adapters of another program, or something else reads such a weight, too.
    """
    check_adapters(plan, adapters)
    check_learned(plan, ranges, values)
    if not adapters:
        raise CallError("give the adapters that are to be merged, as q.init_adapters makes them.")
    _check_readers(plan)
    storage = {k: plan.storage[k] for k in plan.adapters if k in plan.storage}
    seen = enter_program(values, storage, leaf_keys(plan, key), weight_ranges(plan, ranges))
    merged = list(values)
    for k, adapter in plan.adapters.items():
        base = dequantize(seen[k]) if isinstance(seen[k], QTensor) else seen[k]
        added = adapter.added(adapters[adapter.path])
        merged[k] = (base.astype(jnp.float32) + added).astype(base.dtype)
    return merged


def _check_readers(plan: Plan) -> None:
    """Other readers of a weight would get what is merged into it, which they do not get now."""
    own = {d.site.key for d in plan.decisions if d.adapter is not None}
    found = [
        f"{adapter.path} is read by {use.op} {use.source}".rstrip()
        for k, adapter in plan.adapters.items()
        for use in plan.dataflow.uses.get(k, ())
        if use.key not in own
    ]
    found += [
        f"{d.site.id} quantizes its weight on every call"
        for d in plan.decisions
        if d.adapter is not None and d.action is not None and not d.stored
    ]
    if found:
        raise CallError(
            "merge adapters of weights that only their own products read, and that are stored "
            f"where they are quantized: {shortened(found, 5, '; ')}. Keep these adapters apart."
        )
