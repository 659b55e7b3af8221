"""What a transformed function is given beside its arguments, and how it gets to the sites.

`Transformed.with_ranges` and the like give values that the function's own signature has no place
for. They enter the rewritten program as inputs, so that other values need no other compilation,
and are fed to the sites that use them (`qpass.graph.feeds`).

A site is fed a dict with what there is for it:

* ``"bounds"``: for each of its operands with a static quantizer, ``"act"`` or ``"weight"``, the
  range ``(lo, hi)``, float32 scalars.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax

from qpass.graph.dataflow import Key
from qpass.graph.feeds import Feeds, iterations, nest
from qpass.graph.provenance import Origin
from qpass.numerics import Quantizer
from qpass.plan import Decision, Plan


@partial(jax.tree_util.register_dataclass, data_fields=["ranges"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Given:
    """Values beside the arguments.

    Attributes:
        ranges: ``(lo, hi)`` by the name of the operand in captured statistics, from `ranges`.
    """

    ranges: Mapping[str, Any] = field(default_factory=dict)


def feeds(plan: Plan, given: Given) -> Feeds:
    """What each site is fed; inside the trace of the rewritten program."""
    fed: dict[Key, dict[str, Any]] = {}
    for decision in plan.decisions:
        bounds = {
            side: given.ranges[name]
            for side, name in static_operands(plan, decision).items()
            if name in given.ranges
        }
        if bounds:
            fed[decision.site.key] = {"bounds": bounds}
    return nest(fed)


def static_operands(plan: Plan, decision: Decision) -> dict[str, str]:
    """Those of `operand_names` whose quantizer is static."""
    if decision.action is None:
        return {}
    scheme = decision.action.scheme
    static = {"act": scheme.act, "weight": scheme.weight}
    names = operand_names(plan, decision)
    return {side: name for side, name in names.items() if _is_static(static[side])}


def _is_static(quantizer: Quantizer | None) -> bool:
    return quantizer is not None and quantizer.is_static


def operand_names(plan: Plan, decision: Decision) -> dict[str, str]:
    """What the operands of a quantized site are called that hold no weight, by their part in it.

    ``"act"`` has the site's id. In a product of two activations, the one that is quantized in the
    weight's place is ``"weight"``, and the two are ``<id>:lhs`` and ``<id>:rhs``.
    """
    site, weight = decision.site, decision.quantized.weight
    flow = site.flows[weight]
    leaves = plan.program.leaves
    if isinstance(flow, Origin) and (flow.leaf < 0 or leaves[flow.leaf].is_param):
        return {"act": site.id}
    sides = ("lhs", "rhs")
    return {"act": f"{site.id}:{sides[1 - weight]}", "weight": f"{site.id}:{sides[weight]}"}


def iterations_of(plan: Plan, decision: Decision) -> tuple[int, ...]:
    """Lengths of the scans around a site: the leading axes of what it is fed."""
    path, _ = decision.site.key
    return iterations(plan.program.jaxpr, plan.dataflow.derivatives, path)
