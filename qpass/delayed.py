"""Delayed scaling in a program: the state of its operands, what it feeds, and what it becomes.

State is a dict by id of the forward site, of dicts by operand (``"act"``, ``"weight"``, ``"grad"``)
of what `qpass.numerics.delayed` keeps: ``history [..., length]`` and ``bound [...]``, with a
leading axis for each scan around the site.

A product, the backward products of it and what a rematerialized backward pass runs again share the
operands that they read: its activation, its weight, and the gradient that comes in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.errors import StateError
from qpass.graph._jax import JaxprEqn
from qpass.graph.dataflow import Key
from qpass.graph.merging import Max
from qpass.graph.rewrite import tap_name
from qpass.numerics import Delayed, Quantizer, Scheme, largest_magnitude, recorded
from qpass.numerics.schemes import Backward
from qpass.plan import Decision, Plan

type State = dict[str, dict[str, dict[str, jax.Array]]]

# What the operand in the weight's place of a backward product is in the forward one.
_SHARED = {"dlhs": "weight", "drhs": "act"}


@dataclass(frozen=True)
class Operand:
    """An operand that is scaled by its past.

    Attributes:
        site: id of the site whose state it has.
        name: ``"act"``, ``"weight"`` or ``"grad"``.
        delayed: how.
        greatest: what the greatest code of its type stands for.
        loops: lengths of the scans around the site.
    """

    site: str
    name: str
    delayed: Delayed
    greatest: float
    loops: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.site} ({self.name})"

    def of(self, state: Mapping[str, Any]) -> Any:
        """Its part of a state; None where there is none."""
        return state.get(self.site, {}).get(self.name)


def operands(plan: Plan) -> dict[Key, dict[str, Operand]]:
    """By call path of the site, its delayed operands by their part in the product."""
    by_id = {decision.site.id: decision for decision in plan.decisions}
    found = {d.site.key: _of_site(plan, d, by_id) for d in plan.decisions if d.action is not None}
    return {key: of_site for key, of_site in found.items() if of_site}


def _of_site(plan: Plan, decision: Decision, by_id: Mapping[str, Decision]) -> dict[str, Operand]:
    scheme, loops = decision.quantized.scheme, plan.iterations(decision.site)
    owner = by_id.get(decision.site.forward, decision)
    if plan.iterations(owner.site) != loops:  # another nest of loops: a state of its own
        owner = decision
    return {
        part: Operand(owner.site.id, _name(decision, part), how, quantizer.qtype.qmax, loops)
        for part, quantizer in _asked(scheme).items()
        if (how := quantizer.delayed_range) is not None
    }


def _asked(scheme: Scheme) -> dict[str, Quantizer]:
    """The quantizer of each operand of a product and of its backward products: a delayed one.

    An operand that the forward product and a backward one read has one history.
    """
    dlhs, drhs = (product or Backward() for product in (scheme.dlhs, scheme.drhs))
    every = {
        "act": (scheme.act, drhs.quantizers[1]),
        "weight": (scheme.weight, dlhs.quantizers[1]),
        "grad": (dlhs.quantizers[0], drhs.quantizers[0]),
    }
    given = {part: [q for q in quantizers if q] for part, quantizers in every.items()}
    return {
        part: next((q for q in quantizers if q.delayed_range), quantizers[0])
        for part, quantizers in given.items()
        if quantizers
    }


def _name(decision: Decision, part: str) -> str:
    """What an operand of the product is in the forward product."""
    role = decision.site.role
    if role not in _SHARED:
        return part
    return _SHARED[role] if part == "weight" else "grad"


def init_state(plan: Plan) -> State:
    """The state before the first step: nothing seen, all scales 1.

    Raises:
        StateError: the plan scales nothing by its past, or one operand in two ways.
    """
    state: State = {}
    for operand in every_operand(plan):
        start = operand.delayed.start(operand.greatest, operand.loops)
        state.setdefault(operand.site, {})[operand.name] = start
    if not state:
        raise StateError(
            "Ask for a state with rules that scale by earlier steps, such as "
            "Rule(weight='fp8_e4m3 delayed', act='fp8_e4m3 delayed'): these rules have none."
        )
    return state


def every_operand(plan: Plan) -> list[Operand]:
    """Each operand once.

    Raises:
        StateError: two products that read it look back in different ways.
    """
    found: dict[tuple[str, str], Operand] = {}
    for operand in (o for of_site in operands(plan).values() for o in of_site.values()):
        first = found.setdefault((operand.site, operand.name), operand)
        if first.delayed != operand.delayed:
            raise StateError(
                f"Scale {operand} in one way: its products ask for '{first.delayed}' and "
                f"'{operand.delayed}', and it has one history."
            )
    return list(found.values())


def bounds(plan: Plan, state: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The range ``(lo, hi)`` of each delayed operand in the next step, by site and part in it."""
    return {
        key: {
            part: _range(o.delayed.bound(o.of(state))) for part, o in of_site.items() if o.of(state)
        }
        for key, of_site in operands(plan).items()
    }


def _range(bound: jax.Array) -> tuple[jax.Array, jax.Array]:
    return -bound, bound


def tap(plan: Plan, unwrap: Callable) -> Callable:
    """What `qpass.graph.rewrite.Rewriter.tap` calls: the magnitudes of the delayed operands."""
    of_sites = operands(plan)
    places = {d.site.key: d.quantized.weight for d in plan.decisions if d.action is not None}

    def seen(key: Key, eqn: JaxprEqn, values: list, result: Any) -> dict[str, Max]:
        del eqn, result
        if key not in places:  # a float product with an adapter
            return {}
        place = {"weight": places[key], "act": 1 - places[key]}
        return {
            part: Max(largest_magnitude(lax.stop_gradient(unwrap(values[place[part]]))))
            for part in of_sites.get(key, {})
            if part in place
        }

    return seen


def advance(plan: Plan, state: Mapping[str, Any], taps: Mapping[str, Any]) -> State:
    """The state after a step, from what was tapped in it."""
    seen: dict[tuple[str, str], list[jax.Array]] = {}
    for key, of_site in operands(plan).items():
        tapped = taps.get(tap_name(key), {})
        for part, operand in of_site.items():
            if part in tapped:
                seen.setdefault((operand.site, operand.name), []).append(tapped[part].value)
    after: State = {}
    for o in every_operand(plan):
        # What did not run has seen nothing (-inf), as what is not differentiated has no gradient.
        none = jnp.zeros(o.loops, jnp.float32)
        amax = reduce(jnp.maximum, seen.get((o.site, o.name), []), none)
        history = recorded(o.of(state)["history"], amax)
        new = {"bound": o.delayed.bound(o.of(state)), "history": history}
        after.setdefault(o.site, {})[o.name] = new
    return after
