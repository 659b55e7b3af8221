"""Bias correction: the mean error of a quantized product is taken off the bias that follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import FoldError
from qpass.folds.charge import Charge, Refused
from qpass.folds.layout import LAYOUTS
from qpass.folds.products import result_dims
from qpass.folds.rules import RULES
from qpass.folds.search import At, Rule, State
from qpass.folds.wiring import Wiring
from qpass.given import Given, run_given
from qpass.graph._jax import JaxprEqn, bind
from qpass.graph.dataflow import Key
from qpass.graph.feeds import iterations
from qpass.graph.merging import Sum
from qpass.graph.program import Call
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Rewriter, tap_name
from qpass.numerics import QTensor
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan


@dataclass(frozen=True, eq=False)
class Bias:
    """A parameter that is added to the result of a product.

    Attributes:
        decision: at the product.
        leaf: index of the parameter.
        ids: for each of its elements the channel of the result, with the iterations of scans.
        count: how many channels there are, in all iterations.
    """

    decision: Decision
    leaf: int
    ids: np.ndarray
    count: int


def corrected(plan: Plan, call: Call, given: Given) -> list[Any]:
    """The values of a call, with biases that make up for the mean error of their products.

    Raises:
        FoldError: no quantized product has a bias, or parameters are quantized.
    """
    if any(isinstance(v, QTensor) for v in call.values):
        raise FoldError("correct biases before quantizing: parameters are quantized.")
    wiring = Wiring(plan.dataflow, plan.program.leaves)
    products = [d for d in plan.decisions if d.action is not None and d.site.role == "forward"]
    found = [bias for d in products if (bias := find_bias(plan, wiring, d)) is not None]
    if not found:
        raise FoldError("correct biases of a program that adds some to quantized products.")
    errors = jax.jit(partial(_mean_errors, plan))(list(call.values), replace(given, adapters={}))
    values = list(call.values)
    for bias in found:
        error = errors[tap_name(bias.decision.site.key)].ravel()
        old = jnp.asarray(values[bias.leaf])
        own = jnp.where(bias.ids < 0, 0, error[np.maximum(bias.ids, 0)])
        values[bias.leaf] = (old + own).astype(old.dtype)
    return values


def find_bias(plan: Plan, wiring: Wiring, decision: Decision) -> Bias | None:
    """The parameter that is added to a product's result, and to nothing else; None for none."""
    site = decision.site
    (result,) = wiring.results(_equation(wiring, site.key))
    loops = iterations(plan.program.jaxpr, plan.dataflow.derivatives, site.key[0])
    own = _channels(site.eqn, decision)
    sizes = [n if d in own else 1 for d, n in enumerate(site.eqn.outvars[0].aval.shape)]
    ids = np.arange(np.prod((*loops, *sizes)), dtype=np.int32).reshape(*loops, *sizes)
    state = State(wiring, _RULES)
    try:
        state.put(result, Charge(ids, -1))
        state.solve()
    except Refused:
        return None
    leaves = [(wiring.attribute(n, "leaf"), c) for n, c in state.charges.items()]
    found = [(leaf, c) for leaf, c in leaves if leaf is not None and leaf >= 0]
    if len(found) != 1 or state.ties:
        return None
    leaf, charge = found[0]
    return Bias(decision, leaf, charge.ids, ids.size)


def _equation(wiring: Wiring, key: Key) -> int:
    nodes = wiring.dataflow.graph.nodes
    return next(n for n in nodes if nodes[n].get("key") == key)


def _channels(eqn: JaxprEqn, decision: Decision) -> frozenset[int]:
    """Dimensions of the result that are the weight's."""
    numbers = eqn.params.get("dimension_numbers")
    if isinstance(numbers, lax.ConvDimensionNumbers):
        return frozenset({numbers.out_spec[1]})
    return frozenset(result_dims(eqn, decision.quantized.weight).values())


def _added(at: At) -> None:
    """What is added to a charged value, if it is a parameter that is added to nothing else."""
    charged = [node for node in at.operands if at.charge(node) is not None]
    (other,) = [node for node in at.operands if node not in charged] or [charged[0]]
    if other not in charged and not at.state.wiring.is_parameter(other):
        raise Refused("adds no parameter")
    charge = at.charge(charged[0])
    assert charge is not None  # of what brought the walk here
    at.set(other, charge)


def _stop(at: At) -> None:
    """Where the walk begins."""


_RULES: Mapping[str, Rule] = {
    **{name: RULES[name] for name in LAYOUTS},
    "add": _added,
    "conv_general_dilated": _stop,
    "dot_general": _stop,
}


def _mean_errors(plan: Plan, values: list, given: Given) -> dict[str, jax.Array]:
    """By name of the site, the mean over rows of the float result less the quantized one."""
    operations = QTensorOperations(plan.kernels)
    weights = {d.site.key: d for d in plan.decisions if d.action is not None}
    tap: Callable = partial(_tap, weights)
    rewriter = Rewriter(plan.actions, plan.dataflow.derivatives, operations, REBUILD, tap=tap)
    _, taps = run_given(rewriter, plan, given, values)
    return {name: tap.value for name, tap in taps.items()}


def _tap(
    decisions: Mapping[Key, Decision], key: Key, eqn: JaxprEqn, operands: list, result: Any
) -> Sum | dict:
    if key not in decisions:
        return {}
    floats = [v.latent if isinstance(v, QTensor) else v for v in operands]
    (exact,) = bind(eqn, floats)
    error = lax.convert_element_type(exact, jnp.float32) - result
    own = _channels(eqn, decisions[key])
    return Sum(jnp.mean(error, axis=[d for d in range(error.ndim) if d not in own]))
