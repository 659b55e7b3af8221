"""Sparsify: which weights are masked, and along which axis their neighbours lie."""

from dataclasses import replace
from types import MappingProxyType

from qpass.graph.sites import Site
from qpass.numerics.sparsity import NM, Masked
from qpass.passes.refuse import refuse_beside, why_not
from qpass.passes.weight_axes import forward_rule, weight_axes, why_not_plain
from qpass.plan import Decision, Plan


def sparsify(plan: Plan) -> Plan:
    """Fill ``plan.masked``.

    Raises:
        RuleError: a weight that a rule with ``sparsity=`` chose cannot be masked (a warning where
            the plan is not strict; it is not masked then).
    """
    masked: dict[int, Masked] = {}
    refused: dict[int, str] = {}
    for decision in plan.decisions:
        sparsity, leaf = _sparsity(plan, decision), decision.site.leaf
        if sparsity is None:
            continue
        assert leaf is not None  # of every forward product
        found = _masked(plan, leaf, decision.site, sparsity)
        if isinstance(found, Masked) and masked.setdefault(leaf, found) != found:
            found = f"another product of {found.path} is {masked[leaf]}, this one {found}"
        if isinstance(found, str):
            refused[leaf] = f"{decision.site.id}: {found}"
    refuse_beside(plan, "sparsity=", refused.values())
    kept = {leaf: found for leaf, found in masked.items() if leaf not in refused}
    return replace(plan, masked=MappingProxyType(kept))


def _sparsity(plan: Plan, decision: Decision) -> NM | None:
    rule = forward_rule(plan, decision)
    return rule and rule.sparsity


def _masked(plan: Plan, leaf: int, site: Site, sparsity: NM) -> Masked | str:
    why = why_not_plain(site) or why_not(site)
    if why:
        return why
    axes = weight_axes(site)
    if axes.fault or not axes.contract:
        return axes.fault or "it sums over an axis that the weight was broadcast along"
    path = plan.program.leaves[leaf].path
    products = {decision.site.key for decision in plan.decisions}
    for use in plan.dataflow.uses.get(leaf, ()):
        if use.key not in products and use.op != "gather":
            reader = f"{use.op} {use.source}".rstrip()
            return (
                f"{path} is read by {reader} as well, which needs all of it: where that is an "
                "update of the weight, transform the loss, not the training step"
            )
    aval = plan.program.jaxpr.invars[leaf].aval
    return Masked(path, sparsity, tuple(aval.shape), max(axes.contract))
