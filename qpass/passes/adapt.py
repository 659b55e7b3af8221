"""Adapt: which weights have an adapter of low rank beside them, and at which of their products."""

from dataclasses import replace
from types import MappingProxyType

import jax
import jax.numpy as jnp

from qpass.adapters.factors import NotFollowedError, as_factor, follow_steps
from qpass.graph.provenance import Origin
from qpass.graph.sites import Site
from qpass.ops.lora import Adapted, Adapter, LoRA
from qpass.ops.ragged_spec import divides_rows
from qpass.ops.sharded import explicit_sharding
from qpass.passes.refuse import refuse_beside, why_not
from qpass.passes.weight_axes import (
    forward_rule,
    weight_axes,
    weight_dims,
    weight_operand,
    why_not_plain,
)
from qpass.plan import Decision, Plan

OWN_RULE = frozenset({"custom_vjp_call", "custom_jvp_call"})


def adapt(plan: Plan) -> Plan:
    """Fill ``plan.adapters`` and mark the sites that they belong to.

    Raises:
        RuleError: a site that a rule with ``lora=`` chose cannot take an adapter (a warning where
            the plan is not strict; the site has none then).
    """
    adapters: dict[int, Adapter] = {}
    refused: list[str] = []
    marked: dict[str, Adapted] = {}
    for decision in plan.decisions:
        if _lora(plan, decision) is None:
            continue
        found = _adapted(plan, adapters, decision)
        if isinstance(found, str):
            refused.append(f"{decision.site.id}: {found}")
        else:
            marked[decision.site.id] = found
    refuse_beside(plan, "lora=", refused)
    plan = replace(plan, adapters=MappingProxyType(adapters))
    return plan.update(lambda d: replace(d, adapter=marked.get(d.site.id)))


def _lora(plan: Plan, decision: Decision) -> LoRA | None:
    rule = forward_rule(plan, decision)
    return rule and rule.lora


def _adapted(plan: Plan, adapters: dict[int, Adapter], decision: Decision) -> Adapted | str:
    """What is added at a site, or why nothing can be; the first site of a leaf says what it is."""
    site, leaf, lora = decision.site, decision.site.leaf, _lora(plan, decision)
    assert lora is not None
    assert leaf is not None  # of every forward product
    why = _why_not_op(site) or why_not(site) or _why_not_here(plan, site)
    if why:
        return why
    adapter = adapters.get(leaf) or _adapter(plan, leaf, site, lora)
    if isinstance(adapter, str):
        return adapter
    if adapter.lora != lora:
        return f"another rule gives {adapter.path} another adapter, {adapter.lora}"
    swapped = _swapped(adapter, site)
    if isinstance(swapped, str):
        return swapped
    adapters[leaf] = adapter
    return Adapted(lora, weight_operand(site), swapped)


def _why_not_op(site: Site) -> str:
    """Of ragged products, those of rows that experts divide have adapters as plain ones do."""
    return "" if divides_rows(site) else why_not_plain(site)


def _why_not_here(plan: Plan, site: Site) -> str:
    if any(eqn.primitive.name in OWN_RULE for eqn in plan.around(site)):
        return "it lies in a function with a derivative rule of its own, which knows no adapters"
    if any(other.site.forward == site.id for other in plan.decisions):
        return (
            "the function differentiates it itself, and so without the adapter: transform the "
            "loss, and call jax.grad on that"
        )
    if explicit_sharding(site.eqn.outvars[0].aval) is not None:
        return "shardings are part of the types there"
    return ""


def _adapter(plan: Plan, leaf: int, site: Site, lora: LoRA) -> Adapter | str:
    axes = weight_axes(site)
    if axes.fault:
        return axes.fault
    aval = plan.program.jaxpr.invars[leaf].aval
    shared = tuple(sorted(set(range(aval.ndim)) - axes.contract - axes.free))
    dtype = jnp.dtype(lora.dtype or aval.dtype).name
    path = plan.program.leaves[leaf].path
    own = tuple(sorted(axes.contract)), tuple(sorted(axes.free)), shared
    return Adapter(path, lora, tuple(aval.shape), dtype, *own)


def _swapped(adapter: Adapter, site: Site) -> bool | str:
    """Whether the product contracts what B has; a text where it contracts parts of both."""
    side = weight_operand(site)
    origin, shape = site.flows[side], tuple(site.eqn.invars[side].aval.shape)
    assert isinstance(origin, Origin)
    try:
        sizes = [_sizes(adapter, origin, shape, k) for k in (0, 1)]
    except NotFollowedError as error:
        return f"an adapter cannot follow {error}"
    contract, free, _ = weight_dims(site)
    for swapped, (first, second) in ((False, sizes), (True, sizes[::-1])):
        if all(first[d] == 1 for d in free) and all(second[d] == 1 for d in contract):
            whole = all(first[d] == shape[d] for d in contract)
            if whole and all(second[d] == shape[d] for d in free):
                return swapped
    return f"it contracts other axes of {adapter.path} than another product of it"


def _sizes(adapter: Adapter, origin: Origin, shape: tuple[int, ...], k: int) -> tuple[int, ...]:
    """Sizes of a factor along the dimensions of the operand, 1 along those that it lacks."""

    def follow(factors: dict) -> jax.Array:
        factor = follow_steps(as_factor(adapter.beside(factors)[k], adapter.shape), origin.steps)
        if factor.shape != shape:
            raise NotFollowedError("the shard_map before it, which splits the weight")
        return jnp.reshape(factor.array, (-1, *factor.sizes))

    return jax.eval_shape(follow, _abstract(adapter)).shape[1:]


def _abstract(adapter: Adapter) -> dict[str, jax.ShapeDtypeStruct]:
    return {n: jax.ShapeDtypeStruct(s, adapter.dtype) for n, s in adapter.shapes.items()}
