"""Join: products that share their activation are computed together, as q, k and v are.

Joined products quantize the activation once and are one call where the kernel can
(`qpass_kernels.Kernel.run_joined`); it reads each weight where it lies. The numbers are the same.
"""

from collections.abc import Iterator
from typing import Any

from qpass.graph._jax import Jaxpr, Literal
from qpass.graph.dimensions import dimensions
from qpass.graph.regions import Region
from qpass.ops.joined_dot import Joined
from qpass.ops.operations import Quantized
from qpass.ops.sharded import explicit_sharding
from qpass.passes.regions import noted, with_regions
from qpass.plan import Decision, Plan

# What gives equal results for equal operands, and is written once for each product that reads one.
REPEATED = frozenset({"convert_element_type", "reshape", "transpose", "squeeze", "stop_gradient"})


def join(plan: Plan) -> Plan:
    """The plan with a region for each activation that several alike products read."""
    groups = list(_groups(plan))
    proposed = [Region(path, indices, Joined()) for path, indices in groups]
    joined, refused = with_regions(plan, proposed)
    kept = [region for region in proposed if region in joined.regions]
    ids = {d.site.key: d.site.id for d in plan.decisions}

    def others(region: Region, decision: Decision) -> str:
        return ", ".join(ids[key] for key in region.keys if key != decision.site.key)

    joined = noted(joined, kept, lambda r, d: f"joined with {others(r, d)}")
    for region, why in refused:
        tell = lambda r, d, why=why: f"not joined with {others(r, d)}: {why}"  # noqa: E731
        joined = noted(joined, [region], tell)
    return joined


def _groups(plan: Plan) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """Call path and equations of products that could be one call."""
    found: dict[Any, list[int]] = {}
    origins: dict[Any, dict] = {}
    for decision in plan.decisions:
        kind = _kind(decision)
        if kind is None:
            continue
        path, index = decision.site.key
        if path not in origins:
            origins[path] = _origins(plan.body(path))
        x = decision.site.eqn.invars[1 - decision.quantized.weight]
        if not isinstance(x, Literal):
            found.setdefault((path, origins[path].get(x, x), kind), []).append(index)
    for (path, *_), indices in found.items():
        if len(indices) > 1:
            yield path, tuple(indices)


def _kind(decision: Decision) -> Any:
    """What products have in common that can be joined; None where it cannot.

    A weight that is not stored is quantized by what surrounds the product, and an activation whose
    range or random numbers are handed in is another one at each product.
    """
    action, eqn = decision.action, decision.site.eqn
    if not isinstance(action, Quantized) or not decision.stored or action.backward is not None:
        return None
    act = action.scheme.act
    if action.scheme.accumulate:
        return None
    if act is not None and (act.is_static or not act.symmetric or act.nearest() != act):
        return None
    if eqn.primitive.name != "dot_general" or explicit_sharding(eqn.outvars[0].aval) is not None:
        return None
    contract, batch = dimensions(eqn)
    x = 1 - action.weight
    return contract[x], batch[x], act, action.scheme.weight, eqn.outvars[0].aval.dtype


def _origins(jaxpr: Jaxpr) -> dict[Any, Any]:
    """For values that are made of another in the same way, what stands for all of them."""
    same: dict[Any, Any] = {}
    first: dict[Any, Any] = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name not in REPEATED or len(eqn.invars) != 1:
            continue
        (x,), (y,) = eqn.invars, eqn.outvars
        if not isinstance(x, Literal):
            key = eqn.primitive.name, str(sorted(eqn.params.items())), same.get(x, x)
            same[y] = first.setdefault(key, y)
    return same
