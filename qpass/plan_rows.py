"""A plan as plain rows for printing, with the kernel that each product gets on a platform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import networkx as nx

from qpass.graph.convolution import convolution_text
from qpass.graph.dataflow import Found, Key
from qpass.graph.higher_order import equation_at
from qpass.graph.opaque import LINEAR
from qpass.graph.provenance import Origin
from qpass.graph.sites import Site
from qpass.graph.trail import Trails
from qpass.ops.op import Ran
from qpass.ops.operations import on_the_fly
from qpass.ops.table import OPS
from qpass.ops.weights import Storage, abstract_weight, stored_nbytes
from qpass.views import Row

if TYPE_CHECKING:
    from qpass.plan import Decision, Plan


def plan_rows(plan: Plan) -> tuple[Row, ...]:
    """One row for each site, then one for each equation that qpass cannot look into."""
    chosen: dict[Any, Ran] = {}
    sizes = _leaf_bytes(plan)
    notes = _notes_by_site(plan)
    trails = Trails(plan.program, plan.dataflow)
    rows = [_row(plan, d, chosen, sizes, notes, trails) for d in plan.decisions]
    rows += [
        _opaque_row(found, reason, k, trails)
        for k, (found, reason) in enumerate(plan.dataflow.opaque)
    ]
    return tuple(rows)


def _row(
    plan: Plan,
    decision: Decision,
    chosen: dict,
    sizes: dict[int, tuple[int, int]],
    notes: dict,
    trails: Trails,
) -> Row:
    site = decision.site
    before, after = sizes.get(site.leaf, (0, 0)) if site.leaf is not None else (0, 0)
    ran = kernel_at(plan, decision, chosen) if decision.action else Ran()
    lhs, rhs = (v.aval.str_short(short_dtypes=True) for v in site.eqn.invars[:2])
    return Row(
        id=site.id,
        op=site.op,
        equation=_equation(site),
        role=site.role,
        lhs=lhs,
        rhs=rhs,
        out=site.eqn.outvars[0].aval.str_short(short_dtypes=True),
        weight=site.weight_path,
        scope=site.scope,
        source=site.source,
        rule=decision.rule,
        rule_text=plan.rules[decision.rule].describe() if decision.rule is not None else "",
        scheme=f"{_scheme(decision)}{beside(plan, decision)}" if decision.action else "",
        kernel=ran.kernel,
        refused=ran.refused,
        bytes_before=before,
        bytes_after=after,
        count=site.repeats,
        reason="" if decision.action else f"{decision.reason}{beside(plan, decision)}",
        notes=(*decision.notes, *notes[site.key], *ran.told),
        slow=ran.slow,
        forward=site.forward,
        operands_from=() if decision.action else _operands_from(trails, site.nodes),
    )


def _equation(site: Site) -> str:
    """What is summed over, in letters for axes; empty where there is no such text."""
    if site.op == "conv_general_dilated":
        return convolution_text(site.eqn.params, [v.aval for v in site.eqn.invars])
    return str(site.equation or "")


def _scheme(decision: Decision) -> str:
    """The quantizers; where one operand alone has one, what it is."""
    site, action = decision.site, decision.quantized
    alone = {"qk": "keys-only", "pv": "values-only", "lookup": "rows"}
    text = str(action.scheme).replace("weight-only", alone.get(site.role, "weight-only"))
    return f"{text}, smooth" if action.smooth else text


def beside(plan: Plan, decision: Decision) -> str:
    """What there is beside quantizers, as it is added to the scheme: ", 2:4, lora r8"."""
    leaf = decision.site.leaf
    masked = plan.masked.get(leaf) if leaf is not None else None
    adapter = decision.adapter
    found = (masked and str(masked.sparsity), adapter and str(adapter.lora))
    return "".join(f", {text}" for text in found if text)


def _operands_from(trails: Trails, nodes: Sequence[int]) -> tuple[str, ...]:
    sides = zip(("lhs", "rhs"), nodes, strict=True)
    return tuple(f"{side}: {trails.describe(node)}" for side, node in sides)


def _opaque_row(found: Found, reason: str, number: int, trails: Trails) -> Row:
    eqn = found.eqn
    scope = "/".join(found.place.scopes)
    avals = [v.aval.str_short(short_dtypes=True) for v in eqn.invars]
    return Row(
        id=f"{scope or 'opaque'}/{eqn.primitive.name}.{number}",
        op=eqn.primitive.name,
        equation="",
        role="linear" if eqn.primitive.name in LINEAR else "opaque",
        lhs=avals[0] if avals else "",
        rhs=avals[1] if len(avals) > 1 else "",
        out=eqn.outvars[0].aval.str_short(short_dtypes=True) if eqn.outvars else "",
        scope=scope,
        source=found.place.source,
        count=found.place.repeats,
        reason=reason,
        operands_from=tuple(
            f"operand {k}: {trails.describe(n)}" for k, n in enumerate(found.nodes)
        ),
    )


def kernel_at(plan: Plan, decision: Decision, chosen: dict[Any, Ran]) -> Ran:
    """Find the kernel of a quantized site.

    Sites of equal shapes and schemes share the look-up.
    """
    site, action = decision.site, decision.quantized
    weight = abstract_weight(site.eqn.invars[action.weight].aval, storage_at(plan, decision))
    op = OPS[site.op]
    spec = op.spec(action, site.eqn, plan.kernels)
    aval = site.eqn.invars[1 - action.weight].aval
    key = (spec, aval.shape, aval.dtype, jax.tree.structure(weight), weight.shape)
    if key not in chosen:
        x = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        chosen[key] = op.ran(spec, x, weight, plan.platform)
    return chosen[key]


def storage_at(plan: Plan, decision: Decision) -> Storage:
    """How the weight of a product is quantized, with column sums where its leaf has them."""
    leaf = decision.site.leaf
    sums = decision.stored and leaf is not None and plan.storage[leaf].sums
    return replace(on_the_fly(decision.quantized, decision.site.eqn), sums=sums)


def _leaf_bytes(plan: Plan) -> dict[int, tuple[int, int]]:
    """Bytes of each weight's leaf as float and as stored."""
    sizes = {}
    for leaf in {d.site.leaf for d in plan.decisions if d.site.leaf is not None}:
        if leaf < 0:
            continue
        aval = plan.program.jaxpr.invars[leaf].aval
        before = aval.size * aval.dtype.itemsize
        sizes[leaf] = (before, _stored_bytes(plan, leaf, aval) or before)
    return sizes


def _stored_bytes(plan: Plan, leaf: int, aval: Any) -> int | None:
    storage = plan.storage.get(leaf)
    return None if storage is None else stored_nbytes(aval, storage)


def _notes_by_site(plan: Plan) -> dict[Key, list[str]]:
    """What the rewriter had to dequantize, by the site that it happened at or on the way to."""
    notes: dict[Key, list[str]] = {d.site.key: [] for d in plan.decisions}
    passed = _sites_by_step(plan)
    for key, text in plan.rewritten_notes:
        if key in notes:
            notes[key].append(text)
        else:
            for site in passed.get(id(equation_at(plan.program.jaxpr, key)), ()):
                notes[site].append(f"{text} on the way, and quantized again here")
    return notes


def _sites_by_step(plan: Plan) -> dict[int, list[Key]]:
    """Quantized sites by the equations that their weights pass, each by its identity."""
    sites: dict[int, list[Key]] = {}
    for decision in plan.decisions if plan.rewritten_notes else ():
        flow = decision.site.flows[decision.action.weight] if decision.action else None
        for step in flow.steps if isinstance(flow, Origin) else ():
            sites.setdefault(id(step.eqn), []).append(decision.site.key)
    return sites


def site_edges(plan: Plan) -> Iterator[tuple[str, str]]:
    """Pairs of sites where the first one's result flows into the second past no other site."""
    graph = plan.dataflow.graph
    owner = _equation_owner(plan)
    for node, site in owner.items():
        for other in _next_sites(graph, node, owner):
            yield site, other


def _equation_owner(plan: Plan) -> dict[int, str]:
    by_key = {d.site.key: d.site.id for d in plan.decisions}
    nodes = plan.dataflow.graph.nodes
    return {n: by_key[nodes[n]["key"]] for n in nodes if nodes[n].get("key") in by_key}


def _next_sites(graph: nx.DiGraph, start: int, owner: dict[int, str]) -> list[str]:
    found, seen, stack = [], {start}, list(graph.successors(start))
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in owner:
            found.append(owner[node])
        else:
            stack.extend(graph.successors(node))
    return sorted(found)
