"""Quantize weights for what they are multiplied by, from data or from captured Hessians."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import jax
from jax.core import Tracer

from qpass.errors import CalibrationError, CallError, QuantizeError
from qpass.given import Given, entered, feeds
from qpass.graph.dataflow import Key
from qpass.graph.feeds import enclosing
from qpass.graph.program import Call
from qpass.graph.provenance import Origin
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Frame, Rewriter
from qpass.methods.gptq import GPTQ
from qpass.methods.hessians import Hessians, obstacle
from qpass.methods.lockstep import At, Batches, Lockstep, waiting
from qpass.methods.operand import Solved, solve_read
from qpass.methods.placed import Placed
from qpass.numerics import QTensor
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan
from qpass.stats import Stats
from qpass.suggest import shortened


def quantized_by(
    method: GPTQ | None,
    plan: Plan,
    call: Call,
    batches: Sequence[Call],
    stats: Mapping[str, Any] | None,
    given: Given,
) -> dict[int, QTensor]:
    """The weights that a method quantizes, by index of the input; none without a method.

    Args:
        method: how.
        plan: of the calls.
        call: one that holds the parameters.
        batches: calls on data; empty to take what was captured before.
        stats: that; None for nothing.
        given: values beside the arguments.

    Raises:
        CallError: data without a method, or of several shapes.
        CalibrationError: a method without data.
        QuantizeError: a weight cannot be quantized so.
    """
    if method is None:
        if batches:
            raise CallError("say what the batches are for: give method=qpass.GPTQ().")
        return {}
    if any(batch.key() != batches[0].key() for batch in batches):
        raise CallError("give batches of one shape: they go through the program side by side.")
    if batches:
        return from_data(plan, method, [batch.values for batch in batches], given)
    if stats is None:
        raise CalibrationError(
            "give the method data: batches=, or stats=q.calibrate(..., gather=('hessian',))."
        )
    return from_stats(plan, method, call.values, Stats(dict(stats)))


def from_data(
    plan: Plan, method: GPTQ, batches: Sequence[Sequence[Any]], given: Given
) -> dict[int, QTensor]:
    """Quantize in the order of the program: each product for what it gets from those before it.

    All batches go through the program side by side (`qpass.methods.lockstep`). At each product that
    reads a chosen weight, the Hessian of what all of them multiply it by is taken, the weight is
    quantized, and they go on with the quantized product. Of Hessians one is held at a time.

    Args:
        plan: of the program.
        method: how.
        batches: the program's inputs for each batch, with float parameters.
        given: values beside them; adapters are left out.

    Returns:
        the chosen weights as they are stored, by index of the input.

    Raises:
        QuantizeError: a chosen weight cannot be quantized so; the message says why.
    """
    readers = chosen(plan, method)
    placed = _placed(plan, readers, batches[0])
    operations = QTensorOperations(plan.kernels)
    rewriter = Rewriter(plan.actions, plan.dataflow.derivatives, operations, REBUILD)
    stop = _Stop(method, {d.site.key: d for d in readers}, placed, operations)
    lockstep = Lockstep(rewriter, frozenset(stop.decisions), stop)
    frame = Frame(feeds=feeds(plan, replace(given, adapters={})))
    lockstep.run(plan.program.jaxpr, _inputs(plan, placed, batches, given), frame, {})
    return {leaf: one.tensor() for leaf, one in placed.items()}


def from_stats(plan: Plan, method: GPTQ, values: Sequence[Any], stats: Stats) -> dict[int, QTensor]:
    """Quantize all at once, with Hessians that were captured before.

    Args:
        plan: of the program.
        method: how.
        values: the program's inputs.
        stats: with the Hessian of every product of a chosen weight.

    Returns:
        the chosen weights as they are stored, by index of the input.

    Raises:
        QuantizeError: a chosen weight cannot be quantized so; the message says why.
        CalibrationError: there is no Hessian of a product.
    """
    readers = chosen(plan, method)
    placed = _placed(plan, readers, values)
    for decision in readers:
        hessians = stats.of(decision.site.id).hessian
        for at in _iterations(plan, decision):
            _solved(method, decision, placed, at, hessians[tuple(at.values())])
    return {leaf: one.tensor() for leaf, one in placed.items()}


def _solved(
    method: GPTQ,
    decision: Decision,
    placed: Mapping[int, Placed],
    at: At,
    hessian: jax.Array,
) -> Solved:
    """What a product reads, quantized, and put in its place."""
    one = placed[_leaf(decision)]
    solved = solve_read(method, decision, one.read(decision, at), hessian)
    one.put(decision, at, solved)
    return solved


def chosen(plan: Plan, method: GPTQ) -> list[Decision]:
    """The products that read a weight that the method takes.

    Raises:
        QuantizeError: there is none, or one of them cannot be quantized so.
    """
    stored = [d for d in plan.decisions if d.stored and d.site.role == "forward"]
    readers = [d for d in stored if method.takes(d.site.weight_path)]
    if not readers:
        raise QuantizeError(f"choose a stored weight; no path of any fits {method.path!r}.")
    reasons = {d.site.id: why for d in readers if (why := _why_not(plan, d))}
    if reasons:
        listed = shortened([f"{site} ({why})" for site, why in reasons.items()], 5, "; ")
        raise QuantizeError(
            f"leave out with GPTQ(path=...) what cannot be quantized by the error of its products: "
            f"{listed}."
        )
    return readers


def _why_not(plan: Plan, decision: Decision) -> str:
    site, quantizer = decision.site, decision.quantized.quantizer
    if why := obstacle(plan, decision):
        return why
    origin = site.flows[decision.quantized.weight]
    if isinstance(origin, Origin) and any(str(s) == "dynamic_slice" for s in origin.steps):
        return "it reads a slice whose place is computed"
    if quantizer.is_learned or quantizer.rounding != quantizer.nearest().rounding:
        return "its rule learns the range, or rounds stochastically"
    return "its rule prunes it" if site.leaf in plan.masked else ""


def _iterations(plan: Plan, decision: Decision) -> Iterator[At]:
    """The runs of a product: the iterations of the scans around it, by call path and index."""
    path, _ = decision.site.key
    around = enclosing(plan.program.jaxpr, plan.dataflow.derivatives, path)
    scans = {
        (path[:depth], path[depth][0]): range(eqn.params["length"])
        for depth, eqn in enumerate(around)
        if eqn.primitive.name == "scan"
    }
    for numbers in product(*scans.values()):
        yield dict(zip(scans, numbers, strict=True))


def _placed(plan: Plan, readers: Sequence[Decision], values: Sequence[Any]) -> dict[int, Placed]:
    leaves = dict.fromkeys(map(_leaf, readers))
    paths = {leaf: plan.program.leaves[leaf].path for leaf in leaves}
    kinds = (QTensor, Tracer, jax.ShapeDtypeStruct)
    strange = [paths[leaf] for leaf in leaves if isinstance(values[leaf], kinds)]
    if strange:
        raise QuantizeError(f"give float arrays, outside of jax.jit; not {shortened(strange, 5)}.")
    placed = {leaf: Placed(values[leaf], plan.storage[leaf], paths[leaf]) for leaf in leaves}
    for d in readers:
        one = placed[_leaf(d)]
        if not all(one.claim(d, at) for at in _iterations(plan, d)):
            raise QuantizeError(
                f"leave {d.site.weight_path} out with GPTQ(path=...): it is read several times, "
                f"by {d.site.id} too, and codes that suit one product do harm in another."
            )
    return placed


def _leaf(decision: Decision) -> int:
    assert decision.site.leaf is not None  # as of every product whose weight is stored
    return decision.site.leaf


def _inputs(
    plan: Plan, placed: Mapping[int, Placed], batches: Sequence[Sequence[Any]], given: Given
) -> Batches:
    """The program's inputs for each batch: chosen weights in float, others as their rules say."""
    rest = {leaf: storage for leaf, storage in plan.storage.items() if leaf not in placed}
    params = entered(replace(plan, storage=rest), replace(given, adapters={}), batches[0])
    pairs = list(zip(plan.program.leaves, params, strict=True))
    return [
        [mine if leaf.is_param else x for (leaf, mine), x in zip(pairs, values, strict=True)]
        for values in batches
    ]


@dataclass(eq=False)
class _Stop:
    """What is done where all batches have come to a product of a chosen weight."""

    method: GPTQ
    decisions: Mapping[Key, Decision]
    placed: Mapping[int, Placed]
    operations: QTensorOperations
    _hessian: Hessians = field(default_factory=Hessians)
    _compiled: dict[Any, Any] = field(default_factory=dict)

    def __call__(self, key: Key, operands: Batches, fed: Any, at: At) -> list[Any]:
        decision = self.decisions[key]
        weight = decision.quantized.weight
        acts = [self.operations.unwrap(values[1 - weight]) for values in operands]
        others = [values[2:] for values in operands]
        hessian = self._hessian(decision, acts, others)
        tensor = _solved(self.method, decision, self.placed, at, hessian).tensor(decision)
        run = self._jitted(("product", key), self._product, decision)
        return [waiting(run(x, tensor, more, fed)) for x, more in zip(acts, others, strict=True)]

    def _product(
        self, decision: Decision, x: jax.Array, w: QTensor, others: list, fed: Any
    ) -> jax.Array:
        pair = (w, x) if decision.quantized.weight == 0 else (x, w)
        action, eqn = decision.quantized, decision.site.eqn
        return self.operations.contraction(action, eqn, [*pair, *others], fed)

    def _jitted(self, name: Any, function: Any, decision: Decision) -> Any:
        if name not in self._compiled:
            self._compiled[name] = jax.jit(partial(function, decision))
        return self._compiled[name]
