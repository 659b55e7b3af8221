"""Refuse: sites that a rule chose but that cannot be quantized stay float, with the reason."""

import warnings
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from qpass.errors import RuleError
from qpass.graph.sites import Site
from qpass.numerics import PerGroup
from qpass.ops.table import OPS
from qpass.plan import Decision, Plan
from qpass.rules.rule import groups_fit
from qpass.suggest import shortened

FLOATS = ("float32", "bfloat16", "float16")


def refuse(plan: Plan) -> Plan:
    """Turn impossible actions into reasons.

    Raises:
        RuleError: none of the sites that a rule chose can be quantized (a warning where the plan
            is not strict).
    """
    refused = plan.update(lambda decision: _refuse(plan, decision))
    for text in _without_effect(refused):
        if plan.strict:
            raise RuleError(text)
        warnings.warn(text, stacklevel=2)
    return refused


def _refuse(plan: Plan, decision: Decision) -> Decision:
    if decision.action is None:
        return decision
    reason = (
        why_not(decision.site) or _why_not_scheme(decision) or _why_not_rule(plan, decision.site)
    )
    return decision if reason is None else replace(decision, action=None, reason=reason)


def why_not(site: Site) -> str | None:
    """Why this site cannot be quantized by any rule; None when it can."""
    if site.op not in OPS:
        return f"no quantized form of {site.op}"
    if site.role == "tangent":
        return "a product that is linear in a tangent stays float: quantized, it has no transpose"
    return _why_not_dtype(site) or _why_not_shape(site) or OPS[site.op].why_not(site)


def _why_not_dtype(site: Site) -> str | None:
    pair = f"{site.lhs_dtype} x {site.rhs_dtype}"
    kinds = [v.aval.dtype for v in site.eqn.invars[:2]]
    if any(jnp.issubdtype(k, np.complexfloating) for k in kinds):
        return f"complex product ({pair})"
    if not all(jnp.issubdtype(k, np.floating) for k in kinds):
        return f"integer product ({pair})"
    out = site.eqn.outvars[0].aval.dtype.name
    if not {site.lhs_dtype, site.rhs_dtype, out} <= set(FLOATS):
        return f"unsupported dtypes ({pair} -> {out}); supported are {', '.join(FLOATS)}"
    return None


def _why_not_shape(site: Site) -> str | None:
    if 0 in (*site.lhs_shape, *site.rhs_shape):
        return "empty product"
    return None if site.contract[0] else "outer product: nothing is contracted"


def _why_not_scheme(decision: Decision) -> str | None:
    """Groups are counted when the program is traced, which takes the size that they cut."""
    site, scheme = decision.site, decision.quantized.scheme
    if scheme.weight is None:
        return "neither operand is a weight, and the rule gives no act= or grad="
    grouped = [q for q in (scheme.weight, scheme.act) if q and q.granularity.group]
    symbolic = [site.lhs_shape[d] for d in site.contract[0]]
    symbolic = [str(n) for n in symbolic if not isinstance(n, int)]
    if grouped and symbolic:
        return f"groups along the symbolic size {', '.join(symbolic)}"
    clash = _why_not_groups(decision) if len(grouped) == 2 else None
    return clash or OPS[site.op].why_not_scheme(site, scheme)


def _why_not_groups(decision: Decision) -> str | None:
    """Groups whose number is given have a size only now, which may not fit the other operand's."""
    site, scheme = decision.site, decision.quantized.scheme
    n = site.lhs_shape[site.contract[0][-1]]
    sizes = [
        q.granularity.length(n)
        for q in (scheme.weight, scheme.act)
        if q and isinstance(q.granularity, PerGroup)
    ]
    if len(sizes) < 2 or groups_fit(*sizes):
        return None
    return (
        f"groups of {sizes[0]} of the weight and of {sizes[1]} of the activation along {n} "
        "elements: one must be a multiple of the other"
    )


def _why_not_rule(plan: Plan, site: Site) -> str | None:
    """Inside a custom derivative rule that cannot be traced, gradients would be wrong."""
    path, _ = site.key
    for depth in range(len(path)):
        error = plan.dataflow.untraceable.get((path[:depth], path[depth][0]))
        if error:
            return f"its custom derivative rule cannot be traced: {error}"
    return None


def _without_effect(plan: Plan) -> list[str]:
    texts = []
    for index, rule in enumerate(plan.rules):
        mine = [d for d in plan.decisions if d.rule == index]
        if rule.scheme is None or not mine or any(d.action for d in mine):
            continue
        reasons = shortened((f"{d.site.id}: {d.reason}" for d in mine), 5, "; ")
        texts.append(
            f"rule {index} ({rule.describe()}) quantizes nothing: it fits {len(mine)} products and "
            f"none of them can be quantized ({reasons}). Change the rule or drop it."
        )
    return texts
