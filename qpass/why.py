"""Why a site is as it is: from a plan and the id of one of its sites to an `Explanation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qpass.errors import PlanError
from qpass.graph.trail import Trail, Trails
from qpass.plan_rows import plan_rows
from qpass.rules.verdicts import Verdict, verdicts
from qpass.suggest import did_you_mean
from qpass.views import Row
from qpass.views.explanation import Explanation, Line, Operand, Said
from qpass.views.units import bytes_text

if TYPE_CHECKING:
    from qpass.plan import Decision, Plan


def why(plan: Plan, site: str) -> Explanation:
    """Explain one site, or one sub-program that cannot be looked into.

    Args:
        plan: the plan.
        site: an id, as the plan's rows give it.

    Raises:
        PlanError: no such site; the message names the nearest.
    """
    rows = plan_rows(plan)
    numbers = {row.id: number for number, row in enumerate(rows)}
    if site not in numbers:
        raise PlanError(f"the plan has no site {site!r}: {did_you_mean(site, numbers)}")
    number, sites = numbers[site], len(plan.decisions)
    if number < sites:
        return _site(plan, plan.decisions[number], rows[number])
    found, _ = plan.dataflow.opaque[number - sites]
    names = [f"operand {k}" for k in range(len(found.nodes))]
    return Explanation(rows[number], _operands(plan, names, found.nodes, rows[number]), (), "", "")


def _site(plan: Plan, decision: Decision, row: Row) -> Explanation:
    return Explanation(
        row=row,
        operands=_operands(plan, ("lhs", "rhs"), decision.site.nodes, row),
        rules=_rules(plan, decision),
        storage=_storage(plan, decision, row),
        advice=decision.advice,
    )


def _operands(
    plan: Plan, names: Sequence[str], nodes: Sequence[int], row: Row
) -> tuple[Operand, ...]:
    trails = Trails(plan.program, plan.dataflow)
    return tuple(
        Operand(name, _lines(trails.trail(node), f"{name} of {row.op}", row.source))
        for name, node in zip(names, nodes, strict=True)
    )


def _lines(trail: Trail, end: str, source: str) -> tuple[Line, ...]:
    start = Line(f"{trail.start} (parameter)" if trail.leaf else trail.start, trail.type)
    steps = (Line(f"{s.op} {s.detail}".rstrip(), s.type, s.source) for s in trail.steps)
    last = trail.steps[-1].type if trail.steps else trail.type
    return (start, *steps, Line(end, last, source))


def _rules(plan: Plan, decision: Decision) -> tuple[Said, ...]:
    asked = verdicts(plan.rules, decision.site)
    return tuple(Said(v.rule, v.text, _says(v, decision), v.fits) for v in asked)


def _says(verdict: Verdict, decision: Decision) -> str:
    if not verdict.fits:
        return "; ".join(verdict.failed)
    if verdict.rule != decision.rule:
        return f"fits too, but rule {decision.rule} comes first"
    if decision.action is None:
        return "decides: the product stays float"
    return f"decides: {decision.action.scheme}"


def _storage(plan: Plan, decision: Decision, row: Row) -> str:
    site, action = decision.site, decision.action
    if site.leaf is None:
        return "" if action is None else "no operand is a parameter: both are quantized here"
    if action is None:
        return f"{site.weight_path} is read in float here"
    if action.afresh:
        return f"{site.weight_path} is quantized here, along the axes of this product"
    if not decision.stored:
        return f"{site.weight_path} is not stored quantized: each call quantizes it here"
    size = f"{bytes_text(row.bytes_before)} → {bytes_text(row.bytes_after)}"
    return f"{site.weight_path} is stored as {plan.storage[site.leaf]}: {size}"
