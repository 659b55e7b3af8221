"""Backward: the rule of a forward product decides its backward products, wherever they run.

Where `jax.grad` is called inside the function, they are sites of the program. One that no rule
names takes what the rule of its forward product says of gradients. Where it is called outside,
they are part of the forward product's own derivative rule. What cannot be quantized stays float in
both places, with the reason at the site or in a note at its forward product.
"""

from collections.abc import Mapping
from dataclasses import replace

from qpass.graph.sites import Site
from qpass.numerics import PerGroup, Quantizer, Scheme
from qpass.ops.backward import BackwardProduct
from qpass.ops.operations import Quantized
from qpass.passes.match import weight_operand
from qpass.passes.refuse import why_not
from qpass.plan import Decision, Plan
from qpass.rules.rule import groups_fit

PRODUCTS = ("dlhs", "drhs")


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
    if site.op != "dot_general":
        return f"there is no quantized form of the backward products of {site.op}"
    side = action.weight if name == "dlhs" else 1 - action.weight
    contract, batch = site.eqn.params["dimension_numbers"]
    aval = site.eqn.invars[side].aval
    free = [d for d in range(aval.ndim) if d not in contract[side] and d not in batch[side]]
    if not free:
        return "outer product: nothing is contracted"
    return _why_not_groups((product.grad, product.operand), [aval.shape[d] for d in free])


def _why_not_groups(pair: tuple[Quantizer, Quantizer], sizes: list) -> str:
    """Groups are counted when the program is traced, and those of both operands must fit."""
    grouped = [q for q in pair if q.granularity.group]
    symbolic = [str(n) for n in sizes if not isinstance(n, int)]
    if grouped and symbolic:
        return f"groups along the symbolic size {', '.join(symbolic)}"
    lengths = [q.granularity.length(sizes[-1]) for q in pair if isinstance(q.granularity, PerGroup)]
    if len(lengths) == 2 and not groups_fit(*lengths):
        return (
            f"groups of {lengths[0]} of the gradient and of {lengths[1]} of the other operand "
            f"along {sizes[-1]} elements: one must be a multiple of the other"
        )
    return ""


def product_of(scheme: Scheme, name: str) -> BackwardProduct | None:
    """One backward product of a scheme; None where it stays float."""
    how = getattr(scheme, name)
    return how and BackwardProduct(name, how, scheme.weight if name == "dlhs" else scheme.act)


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
    scheme = Scheme(weight=product.operand, act=product.grad)
    action = Quantized(scheme, weight_operand(site), True, product)
    return replace(decision, rule=theirs.rule, action=action, reason="", notes=())
