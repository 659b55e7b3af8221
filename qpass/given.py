"""What a transformed function is given beside its arguments, and how it gets to the sites.

`Transformed.with_ranges` and the like give values that the function's own signature has no place
for. They enter the rewritten program as inputs, so that other values need no other compilation,
and are fed to the sites that use them (`qpass.graph.feeds`).

A site is fed a dict with what there is for it:

* ``"bounds"``: for each of its operands with a static or delayed quantizer, ``"act"``,
  ``"weight"`` or ``"grad"``, the range ``(lo, hi)``, float32 scalars;
* ``"key"``: a random key of its own, where it rounds stochastically or drops a part of ``x``;
* ``"lora"``: the two factors of its adapter (`qpass.ops.lora`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qpass import delayed
from qpass.adapters.learned import check_learned, learned_paths, weight_ranges
from qpass.adapters.masks import check_masks, masked_values
from qpass.adapters.tree import check_adapters, site_factors
from qpass.delayed_state import check_state
from qpass.errors import CalibrationError, QPassError
from qpass.graph.dataflow import Key
from qpass.graph.feeds import Feeds, nest
from qpass.graph.provenance import Origin
from qpass.graph.rewrite import Frame, Rewriter
from qpass.graph.sites import Site
from qpass.keys import check_key, leaf_keys, site_keys
from qpass.numerics import QTensor, Quantizer
from qpass.ops.backward import BackwardProduct
from qpass.ops.cached import Cached
from qpass.ops.weights import enter_program, weighs
from qpass.plan import Decision, Plan
from qpass.suggest import did_you_mean, shortened


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["ranges", "key", "state", "adapters", "masks"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class Given:
    """Values beside the arguments.

    Attributes:
        ranges: ``(lo, hi)`` by the name of the operand in captured statistics, from `ranges`; and
            by the path of each weight whose range is learned.
        key: for stochastic rounding (`qpass.keys`); None for none.
        state: of delayed scaling (`qpass.delayed`).
        adapters: the factors of each weight that has an adapter, by its path; empty for none.
        masks: of each sparse weight, by its path.
    """

    ranges: Mapping[str, Any] = field(default_factory=dict)
    key: jax.Array | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, Any] = field(default_factory=dict)


def feeds(plan: Plan, given: Given) -> Feeds:
    """What each site is fed; inside the trace of the rewritten program."""
    keys = {} if given.key is None else site_keys(plan, given.key)
    fed: dict[Key, dict[str, Any]] = {site: {"key": key} for site, key in keys.items()}
    past = delayed.bounds(plan, given.state)
    for decision in plan.decisions:
        bounds = past.get(decision.site.key, {}) | {
            side: given.ranges[name]
            for side, name in _fed_ranges(plan, decision).items()
            if name in given.ranges
        }
        if bounds:
            fed.setdefault(decision.site.key, {})["bounds"] = bounds
    for site, factors in site_factors(plan, given.adapters).items():
        fed.setdefault(site, {})["lora"] = factors
    return nest(fed)


def entered(plan: Plan, given: Given, values: Sequence[Any]) -> list[Any]:
    """A program's inputs as its rewritten form reads them: masked; weights and caches quantized."""
    masked = masked_values(plan, given.masks, values)
    bounds = weight_ranges(plan, given.ranges)
    inputs = enter_program(masked, plan.storage, leaf_keys(plan, given.key), bounds)
    for k, cache in plan.caches.items():
        inputs[k] = Cached(inputs[k], cache.quantizer)
    return inputs


def run_given(
    rewriter: Rewriter, plan: Plan, given: Given, values: Sequence[Any]
) -> tuple[list[Any], dict]:
    """The rewritten program's results for these inputs, and what was tapped on the way."""
    frame = Frame(feeds=feeds(plan, given))
    return rewriter.run(plan.program.jaxpr, entered(plan, given, values), frame)


def find_fault(
    plan: Plan, given: Given, values: Sequence[Any], records: bool = False
) -> QPassError | None:
    """Why a program cannot run with these inputs and with what it is given; None if it can.

    Args:
        plan: the plan.
        given: what it is given.
        values: the inputs.
        records: whether it is to give the next state of delayed scaling.
    """
    try:
        check_state(plan, given.state, records)
        check_ranges(plan, given)
        check_learned(plan, given.ranges, values)
        check_weighed(plan, values)
        check_adapters(plan, given.adapters)
        check_masks(plan, given.masks, values)
        check_key(plan, given.key, values)
    except QPassError as error:
        return error
    return None


def check_weighed(plan: Plan, values: Sequence[Any]) -> None:
    """Refuse to quantize a weight in a call whose range needs statistics.

    Raises:
        CalibrationError: naming the sites.
    """
    lacking = [
        d.site.id
        for d in plan.decisions
        if d.action is not None
        and weighs(d.action.quantizer)
        and not (d.site.leaf is not None and d.stored and isinstance(values[d.site.leaf], QTensor))
    ]
    if lacking:
        raise CalibrationError(
            "quantize the parameters beforehand, with q.quantize(..., stats=q.capture(...)): the "
            f"range of the weight at {shortened(lacking, 5)} weighs errors by statistics that a "
            "call has none of. Take the range 'mse' where weights are quantized in the call."
        )


def check_ranges(plan: Plan, given: Given) -> None:
    """Hold the ranges against the program that is to use them.

    Raises:
        CalibrationError: a static operand has none, or one for another number of layers, or a name
            is of no site of the program.
    """
    shapes = {
        name: plan.iterations(decision.site)
        for decision in plan.decisions
        for name in static_operands(plan, decision).values()
    }
    _check_present(plan, shapes, given.ranges)
    more = {
        name: plan.iterations(decision.site)
        for decision in plan.decisions
        for name in _static_backward(decision).values()
        if name in given.ranges
    }
    wrong = [
        f"{name} has {'x'.join(map(str, jnp.shape(given.ranges[name][0]))) or 'one'}, "
        f"not {'x'.join(map(str, shape)) or 'one'}"
        for name, shape in (shapes | more).items()
        if any(jnp.shape(bound) != shape for bound in given.ranges[name])
    ]
    if wrong:
        raise CalibrationError(
            f"give ranges of this program, one for each iteration of the scans around a site: "
            f"{shortened(wrong, 5)}. Capture anew with this program."
        )


def _check_present(plan: Plan, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in given]
    if missing:
        raise CalibrationError(
            f"give static operands their ranges, as q.with_ranges(qpass.ranges(stats)) with the "
            f"stats of q.capture on example arguments; there are none for "
            f"{shortened(missing, 5)}. (A capture does not run the backward half of a custom_vjp, "
            "unless what is transformed calls jax.grad itself: give products in there ranges by "
            "hand, {name: (lo, hi)}, or a dynamic quantizer.)"
        )
    known = {name for d in plan.decisions for name in _every_name(d.site.id)}
    known |= set(learned_paths(plan))
    unknown = [name for name in given if name not in known]
    if unknown:
        meant = did_you_mean(unknown[0], known)
        raise CalibrationError(
            f"give ranges of this program only; it has no site {shortened(unknown, 5)}: {meant} "
            "Capture with this program, or leave these names out."
        )


def static_operands(plan: Plan, decision: Decision) -> dict[str, str]:
    """Those of `operand_names` whose quantizer is static."""
    if decision.action is None:
        return {}
    scheme = decision.action.scheme
    static = {"act": scheme.act, "weight": scheme.weight}
    names = operand_names(plan, decision)
    return {side: name for side, name in names.items() if _is_static(static[side])}


def _fed_ranges(plan: Plan, decision: Decision) -> dict[str, str]:
    """All that a site may be fed ranges for: also for its backward products, if they are run."""
    return static_operands(plan, decision) | _static_backward(decision)


def _static_backward(decision: Decision) -> dict[str, str]:
    """Static operands of the backward products of a forward product; see `operand_names`."""
    if decision.action is None:
        return {}
    scheme = decision.quantized.scheme
    products = {"dlhs": scheme.dlhs, "drhs": scheme.drhs}
    found = {}
    for name, product in products.items():
        forward = scheme.weight if name == "dlhs" else scheme.act
        grad, operand = product.quantizers if product else (None, None)
        if _is_static(grad):
            found[f"{name}.grad"] = f"{decision.site.id}:{name}.grad"
        if _is_static(operand) and operand != forward:
            found[f"{name}.operand"] = f"{decision.site.id}:{name}.operand"
    return found


def _is_static(quantizer: Quantizer | None) -> bool:
    return quantizer is not None and quantizer.is_static and not quantizer.delayed_range


def operand_names(plan: Plan, decision: Decision) -> dict[str, str]:
    """What the operands of a quantized site are called that hold no weight, by their part in it.

    ``"act"`` has the site's id. In a product of two activations, the one that is quantized in the
    weight's place is ``"weight"``, and the two are ``<id>:lhs`` and ``<id>:rhs``.

    A backward product that the rule of its forward product decides has the names that it has beside
    that one: ``<forward>:dlhs.grad`` for the gradient, for the other operand that of the forward
    product, or ``<forward>:dlhs.operand`` where its quantizer is another one.
    """
    site, weight = decision.site, decision.quantized.weight
    if decision.quantized.backward is not None:
        return _backward_names(plan, site, decision.quantized.backward)
    flow = site.flows[weight]
    leaves = plan.program.leaves
    if isinstance(flow, Origin) and (flow.leaf < 0 or leaves[flow.leaf].is_param):
        return {"act": site.id}
    names = _both(site.id)
    return {"act": names[1 - weight], "weight": names[weight]}


def _backward_names(plan: Plan, site: Site, product: BackwardProduct) -> dict[str, str]:
    part = f"{site.forward}:{product.product}"
    forward = operand_names(plan, plan[site.forward])
    names = {"act": f"{part}.grad", "weight": f"{part}.operand"}
    if product.operand == product.forward:
        shared = forward.get("weight" if product.product == "dlhs" else "act")
        return {side: n for side, n in (names | {"weight": shared}).items() if n is not None}
    return names


def _every_name(site: str) -> tuple[str, ...]:
    parts = [f"{product}.{part}" for product in ("dlhs", "drhs") for part in ("grad", "operand")]
    return (site, *_both(site), *(f"{site}:{part}" for part in parts))


def _both(site: str) -> tuple[str, str]:
    return f"{site}:lhs", f"{site}:rhs"


def same(one: Given, other: Given) -> bool:
    """Whether two hold the same values; those that are traced only where they are one object."""
    leaves, tree = jax.tree.flatten(one)
    others, structure = jax.tree.flatten(other)
    return tree == structure and all(map(_same, leaves, others))


def _same(one: Any, other: Any) -> bool:
    if one is other or isinstance(one, Tracer) or isinstance(other, Tracer):
        return one is other
    one, other = (jax.random.key_data(v) if _is_key(v) else v for v in (one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key)
