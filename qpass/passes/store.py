"""Store: decide which parameter leaves are stored quantized, and along which axes.

A leaf is stored when every read of it is a quantized product, a row look-up, or both, and all
products agree on type and axes. Otherwise it stays float and its products quantize it on every
call; each of them gets a note with the reason, and the plan a finding with the way out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import jax
import jax.numpy as jnp

from qpass.graph.dataflow import Key, Use
from qpass.graph.provenance import Origin, Step
from qpass.numerics import PerChannel, QTensor
from qpass.ops.layout import apply_layout
from qpass.ops.weights import Storage, encode_weight, shaped
from qpass.passes.leaf_axes import of_leaf
from qpass.passes.unstored import (
    ANY_AXIS,
    BY_STEPS,
    NO_PART,
    NOT_FOLLOWED,
    Unstored,
    findings,
    kept_by_product,
    note,
    one_scale,
    read_as_float,
    two_wishes,
)
from qpass.plan import Decision, Plan

# Steps that every per-channel QTensor follows whatever its sizes: no need to try them out.
SAFE_STEPS = frozenset(
    {"transpose", "squeeze", "convert_element_type", "copy", "name", "stop_gradient", "select_n"}
)
# Steps that move nothing; casts of varying axes cannot be tried out outside of their shard_map.
UNMOVED = frozenset({"optimization_barrier", "pcast", "pvary", "reduced_vary_cast", "select_n"})


def store(plan: Plan) -> Plan:
    """Fill ``plan.storage`` and mark the sites whose weight is stored."""
    by_leaf: dict[int, list[Decision]] = {}
    for decision in plan.decisions:
        leaf = _leaf(decision)
        if leaf is not None:
            by_leaf.setdefault(leaf, []).append(decision)
    kept = {d.site.key: d for d in plan.decisions if d.action is None}
    verdicts = {leaf: _verdict(plan, leaf, group, kept) for leaf, group in by_leaf.items()}
    storage = {leaf: v for leaf, v in verdicts.items() if isinstance(v, Storage)}
    refused = {leaf: v for leaf, v in verdicts.items() if isinstance(v, Unstored)}
    of_products = {d.site.leaf for d in plan.decisions if d.action and d.site.role != "lookup"}
    by_call = {leaf: unstored for leaf, unstored in refused.items() if leaf in of_products}
    found = (*plan.findings, *findings(plan, by_call))
    marked = replace(plan, storage=MappingProxyType(storage), findings=found)
    return marked.update(lambda decision: _mark(plan, decision, refused))


def _leaf(decision: Decision) -> int | None:
    """The leaf that this product could read as it is stored."""
    action = decision.action
    return None if action is None or action.afresh else decision.site.leaf


def _mark(plan: Plan, decision: Decision, refused: dict[int, Unstored]) -> Decision:
    leaf = _leaf(decision)
    if leaf is None:
        return decision
    if leaf not in refused:
        return replace(decision, stored=True)
    if decision.site.role == "lookup":
        reason = f"its table stays float: {refused[leaf].reason}"
        return replace(decision, action=None, reason=reason, advice=refused[leaf].way_out)
    notes = (*decision.notes, note(plan, leaf, refused[leaf]))
    return replace(decision, notes=notes, advice=refused[leaf].way_out)


def _verdict(
    plan: Plan, leaf: int, decisions: Sequence[Decision], kept: Mapping[Key, Decision]
) -> Storage | Unstored:
    first: Storage | None = None
    for decision in decisions:
        one = _wanted(plan, leaf, decision, first)
        if isinstance(one, Unstored):
            return one
        first = first or one
        if one != first:
            return two_wishes((decisions[0].site.id, first), (decision.site.id, one))
    assert first is not None  # of every leaf that a product reads
    return _other_use(plan, leaf, decisions, first, kept) or replace(first, sums=_summed(decisions))


def _summed(decisions: Sequence[Decision]) -> bool:
    """Whether a product of the leaf needs its column sums: where zero points are one for a row."""
    acts = [decision.quantized.scheme.act for decision in decisions]
    return any(act and not act.symmetric and not act.granularity.group for act in acts)


def _wanted(plan: Plan, leaf: int, decision: Decision, first: Storage | None) -> Storage | Unstored:
    """The storage that suits one site; ``first``, where that does too."""
    site, action = decision.site, decision.quantized
    origin = site.flows[action.weight]
    assert isinstance(origin, Origin)  # as of every operand that has a leaf
    if action.quantizer.delayed_range is not None:
        return Unstored(f"{site.id} scales it by earlier steps", BY_STEPS)
    ndim = plan.program.jaxpr.invars[leaf].aval.ndim
    contracted_dims = site.contract[action.weight]
    parts = [origin.axes[d] for d in contracted_dims]
    contract = frozenset().union(*parts)
    free = frozenset().union(
        *(axes for d, axes in enumerate(origin.axes) if d not in contracted_dims)
    )
    if contract & free and not one_scale(action.quantizer):
        why = f"{site.id} contracts only a part of axis {min(contract & free)}"
        return Unstored(why, NO_PART.format(type=action.quantizer.qtype.name))
    if not all(parts):
        return Unstored(
            f"{site.id} contracts an axis that the weight was broadcast along", ANY_AXIS
        )
    separate = tuple(sorted(set(range(ndim)) - contract - free))
    quantizer = of_leaf(action.quantizer, origin, site.eqn.invars[action.weight].aval.shape)
    if quantizer is None:
        why = f"{site.id} has a scale for each index of only a part of an axis"
        return Unstored(why, NOT_FOLLOWED)
    storage = Storage(quantizer, tuple(sorted(contract)), separate)
    if first is not None and _same_scales(first, storage):
        storage = first
    lost = _lost_on_the_way(plan, leaf, origin, storage)
    why = f"its scales cannot follow the {lost} before {site.id}"
    return Unstored(why, NOT_FOLLOWED, storage) if lost else storage


def _same_scales(first: Storage, other: Storage) -> bool:
    """Whether two storages differ at most in the order of codes in memory."""
    same = (first.quantizer, first.separate) == (other.quantizer, other.separate)
    return same and one_scale(first.quantizer)


def _other_use(
    plan: Plan,
    leaf: int,
    decisions: Sequence[Decision],
    storage: Storage,
    kept: Mapping[Key, Decision],
) -> Unstored | None:
    """A read of the leaf that needs its float value."""
    products = {d.site.key for d in decisions if d.site.role != "lookup"}
    for use in plan.dataflow.uses.get(leaf, ()):
        if use.key in products:
            continue
        reader = kept.get(use.key) if use.key is not None else None
        is_kept = reader is not None and reader.rule is not None
        if use.op != "gather" or is_kept or _gather_lost(plan, leaf, use, storage):
            return kept_by_product(reader, storage) if reader else read_as_float(use, storage)
    return None


def _gather_lost(plan: Plan, leaf: int, use: Use, storage: Storage) -> bool:
    """Whether the look-up cannot be done on codes; tried out on the stored leaf."""
    origin = replace(use.origin, steps=(*use.origin.steps, Step(use.eqn)))
    return _lost_on_the_way(plan, leaf, origin, storage) is not None


def _lost_on_the_way(plan: Plan, leaf: int, origin: Origin, storage: Storage) -> str | None:
    """The first layout step that the quantized leaf cannot follow; None when all can."""
    per_channel = storage.quantizer.granularity == PerChannel()
    if not origin.steps or (per_channel and all(_is_safe(step) for step in origin.steps)):
        return None
    aval = plan.program.jaxpr.invars[leaf].aval
    x = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    lost: list[str] = []

    def replay(x: jax.Array) -> None:
        q = encode_weight(x, shaped(storage))
        for step in origin.steps:
            moved = _apply(step, q)
            if moved is None:
                lost.append(str(step))
                return
            q = moved

    jax.eval_shape(replay, x)
    return lost[0] if lost else None


def _is_safe(step: Step) -> bool:
    return step.eqn is None or step.eqn.primitive.name in SAFE_STEPS


def _apply(step: Step, q: QTensor) -> QTensor | None:
    if step.eqn is None:
        # Only shapes count here, and a stack of no layers has no first one.
        return jax.tree.map(lambda array: jnp.zeros(array.shape[1:], array.dtype), q.stacked(1))
    if step.eqn.primitive.name in UNMOVED:
        return q
    zeros = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in step.eqn.invars[1:]]
    return apply_layout(step.eqn, [q, *zeros])
