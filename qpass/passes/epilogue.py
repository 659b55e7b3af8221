"""Compute what follows products in their kernels: bias, activation, gate, residual, cast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from qpass.graph._jax import Jaxpr
from qpass.graph.regions import TAKEN, Region
from qpass.graph.unary import Readers
from qpass.ops.dot_op import dot_spec
from qpass.ops.followed import kernel_of
from qpass.ops.weights import abstract_weight
from qpass.passes.following import Chain, follow
from qpass.passes.regions import noted, with_regions
from qpass.plan import Decision, Plan
from qpass.plan_rows import storage_at
from qpass_kernels.kernel import fuses_nothing, runs_on


@dataclass(frozen=True)
class FuseEpilogues:
    """A pass: what follows a product is computed in its kernel, in float32, where that can.

    Attributes:
        everywhere: also where the kernel cannot: then it is computed after it, in float32 as well.
    """

    everywhere: bool = False

    def __call__(self, plan: Plan) -> Plan:
        """The plan with a region for each product whose kernel takes what follows."""
        here = (k for k in plan.kernels if runs_on(k, plan.platform))
        if not self.everywhere and all(k.fuses is fuses_nothing for k in here):
            return plan
        chains = {chain.region: chain for chain in self._chains(plan)}
        legal = [chain.region for chain in chains.values() if not chain.reason]
        plan, refused = with_regions(plan, legal)
        why = {chain.region: chain.reason for chain in chains.values()} | dict(refused)
        told = [region for region in chains if why[region] != TAKEN]  # they follow another product

        def note(region: Region, decision: Decision) -> str:
            then = f"then {region.action.epilogue}"
            return f"{then}: not in the kernel: {why[region]}" if why[region] else then

        return noted(plan, told, note)

    def _chains(self, plan: Plan) -> Iterator[Chain]:
        """What follows each product, with the reason where its kernel does not compute it."""
        readers: dict[Any, tuple[Jaxpr, Readers]] = {}
        for decision in plan.decisions:
            if not _is_candidate(decision):
                continue
            path, _ = decision.site.key
            if path not in readers:
                jaxpr = plan.body(path)
                readers[path] = jaxpr, Readers.of(jaxpr)
            chain = follow(*readers[path], decision)
            if chain is not None:
                yield chain if chain.reason else replace(chain, reason=self._why(plan, chain))

    def _why(self, plan: Plan, chain: Chain) -> str:
        decision = chain.decision
        eqn, action = decision.site.eqn, decision.quantized
        weight = abstract_weight(eqn.invars[action.weight].aval, storage_at(plan, decision))
        spec, x = dot_spec(action, eqn, plan.kernels), eqn.invars[1 - action.weight].aval
        what = chain.region.action.epilogue
        found = kernel_of(spec, x, weight, what, chain.out, plan.platform)
        if isinstance(found, str):
            return found
        name, fuses = found
        return "" if fuses or self.everywhere else f"{name} does not compute it"


def _is_candidate(decision: Decision) -> bool:
    """Whether it is a product whose kernel might do more: quantized forward, by a kernel."""
    action = decision.action
    if action is None or action.backward is not None or action.afresh or action.smooth:
        return False
    if action.scheme.accumulate:  # what follows reads sums that were rounded
        return False
    return decision.site.eqn.primitive.name == "dot_general"


epilogue = FuseEpilogues()
