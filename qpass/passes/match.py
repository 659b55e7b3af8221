"""Match: the first rule that fits a site decides it."""

import warnings
from dataclasses import replace

from qpass.graph.dataflow import Use
from qpass.graph.sites import Site, weight_operand
from qpass.graph.trail import Trails
from qpass.numerics import Quantizer, Scheme
from qpass.numerics.schemes import Backward
from qpass.ops.operations import Quantized
from qpass.plan import Decision, Plan
from qpass.rules import check_matching, match_rules

UNMATCHED = {
    "forward": "no rule fits",
    "qk": "scores of attention: only a rule with role='qk' takes it",
    "pv": "values of attention: only a rule with role='pv' takes it",
    "activations": "product of two activations: only a rule with role='activations' takes it",
    "dlhs": "backward product: only a rule with role='dlhs' takes it",
    "drhs": "backward product: only a rule with role='drhs' takes it",
    "weights": "product of two weights: only a rule with role='*' takes it",
    "lookup": "look-up of rows: only a rule with role='lookup' takes it",
    "constant": "its weight is a constant that the function closes over: pass it as an argument",
    "tangent": "linear in a tangent of a custom_jvp rule: must stay float to be transposable",
}


def match(plan: Plan) -> Plan:
    """Give every site the decision of the first rule that fits it.

    Raises:
        RuleError: a rule fits no site (a warning where the plan is not strict).
    """
    sites = [decision.site for decision in plan.decisions]
    matching = match_rules(plan.rules, sites)
    findings = check_matching(matching, plan.rules, sites, plan.strict, _readers(plan))
    for text in findings.warnings:
        warnings.warn(text, stacklevel=2)
    trails = Trails(plan.program, plan.dataflow)
    decided = [
        _decide(plan, trails, decision, rule)
        for decision, rule in zip(plan.decisions, matching.chosen, strict=True)
    ]
    found = (*plan.findings, *findings.warnings, *findings.notes)
    return replace(plan, decisions=tuple(decided), findings=found)


def _decide(plan: Plan, trails: Trails, decision: Decision, rule: int | None) -> Decision:
    site = decision.site
    if rule is None:
        return replace(decision, reason=UNMATCHED[site.role], notes=_derived(trails, site))
    scheme = plan.rules[rule].scheme
    if scheme is None:
        return replace(decision, rule=rule, reason=f"kept float by rule {rule}")
    action = replace(_action(site, scheme), smooth=plan.rules[rule].smooth)
    return replace(decision, rule=rule, action=action)


def _action(site: Site, scheme: Scheme) -> Quantized:
    """What the rule's quantizers mean here; a backward product has a cotangent for activation."""
    if site.role == "lookup":
        return Quantized(Scheme(scheme.weight), weight_operand(site))
    weight, act = scheme.weight or scheme.act, scheme.act
    if site.role not in ("dlhs", "drhs"):
        products = {name: _product(scheme, name, weight, act) for name in ("dlhs", "drhs")}
        forward = replace(scheme, weight=weight, act=act, **products)
        return Quantized(forward, weight_operand(site))
    shared = scheme.weight if site.weight is not None else scheme.act
    weight, act = shared or scheme.act or scheme.grad, scheme.grad or scheme.act
    mine = Scheme(weight=weight, act=act, accumulate=scheme.accumulate)
    return Quantized(mine, weight_operand(site), True)


def _product(
    scheme: Scheme, name: str, weight: Quantizer | None, act: Quantizer | None
) -> Backward | None:
    """One backward product of a forward one: what the rule says of it, else of the gradient."""
    own = getattr(scheme, name)
    if own is None and scheme.grad is None:
        return None
    found = (own or Backward()).or_else(scheme.grad, weight if name == "dlhs" else act)
    return replace(found, accumulate=found.accumulate or scheme.accumulate)


def _readers(plan: Plan) -> dict[str, list[str]]:
    """Of each parameter that is no product's weight, by path, what reads it."""
    weights = {decision.site.leaf for decision in plan.decisions}
    leaves, uses = plan.program.leaves, plan.dataflow.uses
    others = (k for k, leaf in enumerate(leaves) if leaf.is_param and k not in weights)
    return {leaves[k].path: [_reader(use) for use in uses.get(k, ())] for k in others}


def _reader(use: Use) -> str:
    return f"{use.op} at {use.source}" if use.source else use.op


def _derived(trails: Trails, site: Site) -> tuple[str, ...]:
    """Operands that are no weights but made of them: what computed each, from which parameters."""
    sides = zip(("lhs", "rhs"), site.nodes, strict=True)
    return tuple(f"{side}: {trails.describe(node)}" for side, node in sides if trails.derived(node))
