"""Backward: the rule of a forward product decides its backward products, wherever they run.

Where `jax.grad` is called inside the function, they are sites of the program. One that no rule
names takes what the rule of its forward product says of gradients. Where it is called outside,
they are part of the forward product's own derivative rule. What cannot be quantized stays float in
both places, with the reason at the site or in a note at its forward product.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qpass.graph.dimensions import free_axes
from qpass.graph.sites import Site, weight_operand
from qpass.numerics import Scheme
from qpass.ops.backward import product_of
from qpass.ops.operations import Quantized
from qpass.ops.ragged_spec import divides_rows
from qpass.ops.sharded import explicit_sharding
from qpass.ops.table import OPS
from qpass.passes.refuse import why_not, why_not_groups
from qpass.plan import Decision, Plan

PRODUCTS = ("dlhs", "drhs")
MIXED = "each 16 numbers of both operands are mixed by a Hadamard matrix first"


def backward(plan: Plan) -> Plan:
    """Give backward products the quantizers that their forward products' rules name."""
    checked = plan.update(_checked)
    forward = {d.site.id: d for d in checked.decisions if d.action is not None}
    return checked.update(lambda decision: _inherit(decision, forward))


def _checked(decision: Decision) -> Decision:
    """A forward product without those backward products that cannot be quantized, and notes."""
    action = decision.action
    if action is None or action.scheme.is_forward_only:
        return decision
    faults = {name: _fault(decision.site, action, name) for name in PRODUCTS}
    dropped = {name: None for name, fault in faults.items() if fault}
    notes = [f"{name} stays float: {fault}" for name, fault in faults.items() if fault]
    scheme = replace(action.scheme, **dropped)
    return replace(
        decision,
        action=replace(action, scheme=scheme),
        notes=(*decision.notes, *notes),
    )


def _fault(site: Site, action: Quantized, name: str) -> str:
    """Why a backward product cannot be quantized; "" where it can, or is not asked for."""
    product = product_of(action.scheme, name)
    if product is None:
        return ""
    reason = OPS[site.op].why_not_backward(site, name)
    if reason is not None:
        return reason
    side = action.weight if name == "dlhs" else 1 - action.weight
    shape, free = site.eqn.invars[side].aval.shape, free_axes(site.eqn, side)
    if not free:
        return "outer product: nothing is contracted"
    if product.how.hadamard and (mixes := _why_not_mixed(site, name, side)):
        return mixes
    operands = {"gradient": product.grad, "other operand": product.operand}
    return why_not_groups(operands, [shape[d] for d in free]) or ""


def _why_not_mixed(site: Site, name: str, side: int) -> str:
    """Why its operands cannot be mixed along the last free axis of one; "" where they can."""
    operand, out = site.eqn.invars[side].aval, site.eqn.outvars[0].aval
    free = free_axes(site.eqn, side)
    if name == "drhs" and divides_rows(site):
        return "a Hadamard matrix would mix the rows of experts"
    if not isinstance(size := operand.shape[free[-1]], int):
        return f"a Hadamard matrix along the symbolic size {size}"
    last = out.ndim - 1 - (0 if side == 1 else len(free_axes(site.eqn, 1)))
    if _is_divided(operand, free[-1]) or _is_divided(out, last):
        return "a Hadamard matrix along an axis that devices divide, by its type"
    return ""


def _is_divided(aval: Any, axis: int) -> bool:
    """Whether devices divide it along the axis, where shardings are part of the types."""
    sharding = explicit_sharding(aval)
    return sharding is not None and sharding.spec[axis] is not None


def _inherit(decision: Decision, forward: Mapping[str, Decision]) -> Decision:
    """A backward product that no rule names, decided by that of its forward product."""
    site = decision.site
    theirs = forward.get(site.forward)
    if site.role not in PRODUCTS or decision.rule is not None or theirs is None:
        return decision
    product = product_of(theirs.quantized.scheme, site.role)
    if product is None or site.cotangent is None:
        return decision
    reason = why_not(site)
    if reason:
        return replace(decision, rule=theirs.rule, reason=reason)
    scheme = Scheme(product.operand, product.grad, accumulate=product.how.accumulate)
    action = Quantized(scheme, weight_operand(site), True, product)
    notes = (MIXED,) if product.how.hadamard else ()
    return replace(decision, rule=theirs.rule, action=action, reason="", notes=notes)
