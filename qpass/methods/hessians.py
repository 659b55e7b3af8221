"""Hessians of what products multiply: one on the device at a time, their sums on the host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import is_
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qpass.errors import CalibrationError
from qpass.given import Given, entered, feeds
from qpass.graph.dataflow import Key
from qpass.graph.dimensions import dimensions
from qpass.graph.feeds import enclosing
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Frame, Rewriter
from qpass.methods.lockstep import CALLS, At, Batches, Lockstep, waiting
from qpass.numerics.statistics import State
from qpass.ops.gathered import PRODUCTS, gathered
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan
from qpass.stats import Stats


def obstacle(plan: Plan, decision: Decision) -> str:
    """Why a product has no Hessian that can be taken step by step; empty where it has one."""
    site = decision.site
    if site.op not in PRODUCTS:
        return f"a {site.op} has no channels of its own"
    around = enclosing(plan.program.jaxpr, plan.dataflow.derivatives, site.key[0])
    inside = [e.primitive.name for e in around if e.primitive.name not in {*CALLS, "scan"}]
    if inside or any(name not in {"body", "primal"} for _, name in site.key[0]):
        return f"inside of a {inside[0] if inside else 'derivative rule'}"
    return ""


def stepped(plan: Plan) -> dict[Key, Decision]:
    """The products of stored weights whose Hessians can be taken one after the other."""
    stored = [d for d in plan.decisions if d.stored and d.site.role == "forward"]
    return {d.site.key: d for d in stored if not obstacle(plan, d)}


_NOTHING = ((), None), None


@dataclass(eq=False)
class Hessians:
    """Hessians summed over batches; products that read one activation in one way share one."""

    _last: tuple[tuple[Any, Any], Any] = _NOTHING
    _compiled: dict[Key, Any] = field(default_factory=dict)

    def __call__(
        self, decision: Decision, acts: Sequence[Any], others: Sequence[list]
    ) -> jax.Array:
        """``f32[..., K, K]``, as `qpass.stats.Gathered` has it but for axes of layers.

        Args:
            decision: of the product.
            acts: for each batch, what its weight is multiplied by.
            others: for each batch, the operands after the two.
        """
        what = (*acts, *jax.tree.leaves(others)), dimensions(decision.site.eqn)
        (values, dims), total = self._last
        alike = dims == what[1] and len(values) == len(what[0])
        if not alike or not all(map(is_, values, what[0])):
            self._last = _NOTHING  # let go before the next one is there
            key = decision.site.key
            if key not in self._compiled:
                self._compiled[key] = jax.jit(partial(_gather, decision))
            total = reduce(jnp.add, map(self._compiled[key], acts, others))
            self._last = what, total
        return total


def _gather(decision: Decision, x: jax.Array, others: list) -> jax.Array:
    eqn, weight = decision.site.eqn, decision.quantized.weight
    return gathered(eqn, weight, (None, None, *others), x, ("hessian",))["sum"]["hessian"]


class _Stepped:
    """One program whose Hessians are added to sums, batch after batch.

    Args:
        plan: of the program.
        sums: what is added to, by id of the site; those that lack are made.
    """

    def __init__(self, plan: Plan, sums: dict[str, np.ndarray]) -> None:
        self.plan, self.sums, self.decisions = plan, sums, stepped(plan)
        self._operations = operations = QTensorOperations(plan.kernels)
        derivatives = plan.dataflow.derivatives
        rewriter = Rewriter(plan.actions, derivatives, operations, REBUILD, tap_rules=True)
        self._lockstep = Lockstep(rewriter, frozenset(self.decisions), self._stop)
        self._hessian, self._products = Hessians(), {}
        self._entered: tuple[Sequence[Any], list] | None = None

    def run(self, values: Sequence[Any], given: Given) -> None:
        """A batch: the program's inputs, and what is given beside them."""
        frame = Frame(feeds=feeds(self.plan, replace(given, ranges={}, state={})))
        self._lockstep.run(self.plan.program.jaxpr, [self._inputs(values, given)], frame, {})

    def _inputs(self, values: Sequence[Any], given: Given) -> list:
        """The inputs as the quantized program reads them; parameters once for all batches."""
        leaves = self.plan.program.leaves
        params = [x if leaf.is_param else None for leaf, x in zip(leaves, values, strict=True)]
        if self._entered is None or not all(map(is_, self._entered[0], params)):
            self._entered = params, entered(self.plan, given, values)
        known = zip(leaves, self._entered[1], values, strict=True)
        return [mine if leaf.is_param else x for leaf, mine, x in known]

    def _stop(self, key: Key, operands: Batches, fed: Any, at: At) -> list[Any]:
        decision, (values,) = self.decisions[key], operands
        act = self._operations.unwrap(values[1 - decision.quantized.weight])
        self._add(decision, at, self._hessian(decision, [act], [values[2:]]))
        if key not in self._products:
            run = partial(self._operations.contraction, self.plan.actions[key], decision.site.eqn)
            self._products[key] = jax.jit(run)
        return [waiting(self._products[key](values, fed))]

    def _add(self, decision: Decision, at: At, hessian: jax.Array) -> None:
        name = decision.site.id
        shape = (*self.plan.iterations(decision.site), *hessian.shape)
        if name not in self.sums:
            self.sums[name] = np.zeros(shape, np.float32)
        total = self.sums[name]
        if total.shape != shape:
            raise CalibrationError(
                f"give statistics of the same program: the Hessian of {name} has the shape "
                f"{total.shape} there, and {shape} here. Capture anew, with stats=None."
            )
        total[tuple(at.values())] += np.asarray(hessian)


class HostHessians:
    """Sums of Hessians on the host, over batches that come one after the other.

    On the device there are the parameters, as the quantized program reads them, the values of one
    batch and one Hessian. Sums are ``np.float32 [*layers, ..., K, K]``.
    """

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self._programs: dict[int, _Stepped] = {}

    def add(
        self, plan: Plan, values: Sequence[Any], given: Given, stats: Mapping[str, State] | None
    ) -> tuple[Mapping[str, State] | None, frozenset[Key]]:
        """Another batch.

        Args:
            plan: of its program.
            values: the program's inputs.
            given: values beside them.
            stats: statistics so far; Hessians are moved from there.

        Returns:
            the statistics without them, and the products that were seen to. Those are none where
            values are traced, or not all on devices of this process.

        Raises:
            CalibrationError: the statistics lack Hessians, or have others.
        """
        if any(map(_is_elsewhere, values)):
            return stats, frozenset()
        if id(plan) not in self._programs:
            self._programs[id(plan)] = _Stepped(plan, self.sums)
        program = self._programs[id(plan)]
        rest = self._moved(stats, {d.site.id for d in program.decisions.values()})
        if program.decisions:
            program.run(values, given)
        return rest, frozenset(program.decisions)

    def _moved(
        self, stats: Mapping[str, State] | None, names: set[str]
    ) -> Mapping[str, State] | None:
        states = {name: dict(state) for name, state in (stats or {}).items()}
        for name in names & states.keys() - self.sums.keys():
            if "hessian" not in states[name]:
                raise CalibrationError(
                    f"give statistics with the same gather=: those given have no Hessian of {name}."
                )
            self.sums[name] = np.array(states[name].pop("hessian"))
        return None if stats is None else states

    def joined(self, stats: Mapping[str, State]) -> Stats:
        """The statistics of all else, with these."""
        mine: dict[str, dict[str, Any]] = {n: {"hessian": h} for n, h in self.sums.items()}
        return Stats({name: {**state, **mine.get(name, {})} for name, state in stats.items()})


def _is_elsewhere(value: Any) -> bool:
    arrays = jax.tree.leaves(value)
    return any(
        isinstance(x, Tracer) or (isinstance(x, jax.Array) and not x.is_fully_addressable)
        for x in arrays
    )
