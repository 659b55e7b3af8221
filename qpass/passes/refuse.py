"""Refuse: sites that a rule chose but that cannot be quantized stay float, with the reason."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from qpass.errors import RuleError
from qpass.graph.sites import Site
from qpass.numerics import PerGroup, Quantizer
from qpass.ops.table import OPS
from qpass.plan import Decision, Plan
from qpass.rules.contradictions import groups_fit
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
        complain(plan, text)
    return refused


def complain(plan: Plan, text: str) -> None:
    """Say what a rule asks for in vain.

    Raises:
        RuleError: with that text (a warning where the plan is not strict).
    """
    if plan.strict:
        raise RuleError(text)
    warnings.warn(text, stacklevel=3)


def refuse_beside(plan: Plan, option: str, refused: Iterable[str]) -> None:
    """Say at which products nothing can be beside the weight.

    Args:
        plan: the plan.
        option: of the rules, what asks for it.
        refused: these products, each with the reason.

    Raises:
        RuleError: there are any (a warning where the plan is not strict).
    """
    if listed := shortened(refused, 5, "; "):
        text = f"Drop {option} where it cannot be, by a rule before it for these products"
        complain(plan, f"{text}: {listed}.")


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
    if site.role == "lookup":
        return OPS[site.op].why_not(site)
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
    site, scheme = decision.site, decision.quantized.scheme
    if scheme.weight is None:
        return "neither operand is a weight, and the rule gives no act= or grad="
    sizes = [site.lhs_shape[d] for d in site.contract[0]]
    clash = why_not_groups({"weight": scheme.weight, "activation": scheme.act}, sizes)
    return clash or OPS[site.op].why_not_scheme(site, scheme)


def why_not_groups(operands: Mapping[str, Quantizer | None], sizes: Sequence[Any]) -> str | None:
    """Why two operands cannot have these groups; None when they can.

    Groups are counted when the program is traced, which takes the size that they cut, and where
    their number is given they have a size only now.

    Args:
        operands: quantizers by what the operand is called.
        sizes: of the contracted axes; groups lie along the last.
    """
    known = {name: q.granularity for name, q in operands.items() if q}
    symbolic = [str(n) for n in sizes if not isinstance(n, int)]
    if symbolic and any(granularity.group for granularity in known.values()):
        return f"groups along the symbolic size {', '.join(symbolic)}"
    cut = {name: g.length(sizes[-1]) for name, g in known.items() if isinstance(g, PerGroup)}
    if len(cut) < 2 or groups_fit(*cut.values()):
        return None
    told = " and ".join(f"of {length} of the {name}" for name, length in cut.items())
    return f"groups {told} along {sizes[-1]} elements: one must be a multiple of the other"


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
