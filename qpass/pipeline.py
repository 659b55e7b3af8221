"""The pipeline: from a traced program to the plan and to the rewritten program."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from qpass import delayed
from qpass.errors import QPassError
from qpass.given import Given, find_fault, run_given
from qpass.graph.opaque import opaque_findings
from qpass.graph.outputs import Outputs
from qpass.graph.program import Call, Program
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Rewriter
from qpass.graph.sites import find_sites
from qpass.graph.walk import analyse
from qpass.numerics import Packed, QTensor
from qpass.ops.cached import Cached
from qpass.ops.operations import QTensorOperations
from qpass.plan import Decision, Plan
from qpass.rules import Rule
from qpass_kernels import Kernel

Params = int | str | Callable[[str], bool] | None
Pass = Callable[[Plan], Plan]


@dataclass(frozen=True, eq=False)
class Compiled:
    """A rewritten program, ready to evaluate.

    Its ``jaxpr`` takes the arrays of a call, flat, then those that it is given beside. Its
    results, of structure ``tree``, are those of the program and the next state of delayed scaling,
    if it ``records`` that. ``fault`` says what it lacks of what is given beside: it can be looked
    at, not called.
    """

    jaxpr: Any
    tree: Any
    outputs: Outputs
    plan: Plan
    fault: QPassError | None = None
    records: bool = False

    def split(self, out: list, state: Any) -> tuple[list, Any]:
        """The program's own results and the next state, which is like the one that it was given."""
        own, after = jax.tree.unflatten(self.tree, out)
        if not self.records:
            return own, state
        return own, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(after))


@dataclass(frozen=True)
class Options:
    """What `transform` was given beside the function."""

    rules: tuple[Rule, ...]
    params: Params
    kernels: tuple[Kernel, ...]
    passes: tuple[Pass, ...]
    strict: bool


def make_plan(program: Program, options: Options, platform: str) -> Plan:
    """Program → dataflow → sites → plan → passes."""
    dataflow = analyse(program)
    lookups = any("lookup" in rule.roles for rule in options.rules)
    sites = find_sites(program, dataflow, lookups)
    plan = Plan(
        program=program,
        dataflow=dataflow,
        rules=options.rules,
        decisions=tuple(Decision(site) for site in sites),
        kernels=options.kernels,
        platform=platform,
        strict=options.strict,
        findings=opaque_findings(dataflow),
    )
    return _decided(plan, options)


def plan_for(plan: Plan, options: Options, platform: str) -> Plan:
    """The plan for another platform: what its kernels can do is decided again."""
    if platform == plan.platform:
        return plan
    bare = Plan(
        program=plan.program,
        dataflow=plan.dataflow,
        rules=plan.rules,
        decisions=tuple(Decision(decision.site) for decision in plan.decisions),
        kernels=plan.kernels,
        platform=platform,
        strict=plan.strict,
        findings=opaque_findings(plan.dataflow),
        rewritten_notes=plan.rewritten_notes,
    )
    return _decided(bare, options)


def _decided(plan: Plan, options: Options) -> Plan:
    for apply in options.passes:
        plan = apply(plan)
    return plan


def rewrite(plan: Plan, call: Call, given: Given, records: bool = False) -> Compiled:
    """Plan → rewritten program for the kinds of leaves (float or QTensor) in ``call``.

    Args:
        plan: the plan.
        call: the inputs.
        given: what is given beside them.
        records: give the next state of delayed scaling after the results.
    """
    operations = QTensorOperations(plan.kernels)
    rules = plan.dataflow.derivatives
    tap = delayed.tap(plan, operations.unwrap) if records else None
    rewriter = Rewriter(plan.actions, rules, operations, REBUILD, plan.regions, tap=tap)
    fault = find_fault(plan, given, call.values, records)
    caches = {k for cache in plan.caches.values() for k in cache.outputs}
    flat, tree = jax.tree.flatten((list(call.values), given))

    def rewritten(*arrays):
        values, beside = jax.tree.unflatten(tree, arrays)
        if fault is not None:  # the program is not run, only its notes are read
            beside = Given(key=jax.random.key(0))
        results, taps = run_given(rewriter, plan, beside, values)
        after = delayed.advance(plan, beside.state, taps) if tap and fault is None else ()
        return [leave(k, value) for k, value in enumerate(results)], after

    def leave(k, value):
        """A cache as it is stored, where it came so; else what the function itself gives."""
        stored = k in caches and isinstance(value, Cached) and value.latent is None
        return value.tensor if stored else operations.unwrap(value)

    jaxpr, shapes = jax.make_jaxpr(rewritten, return_shape=True)(*flat)
    notes = tuple(dict.fromkeys(rewriter.notes))
    noted = replace(plan, rewritten_notes=notes)
    return Compiled(jaxpr, jax.tree.structure(shapes), plan.program.outputs, noted, fault, records)


def is_qtensor(value: Any) -> bool:
    """Whether a value is a QTensor."""
    return isinstance(value, QTensor)


def float_aval(value: Any) -> Any:
    """The abstract float array that a dynamic input stands for."""
    if isinstance(value, QTensor):
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=_explicit_sharding(value))
    return value


def _explicit_sharding(q: QTensor) -> NamedSharding | None:
    """The sharding that the float leaf has in its type, where that of the codes is in theirs."""
    codes = q.codes.words if isinstance(q.codes, Packed) else q.codes
    sharding = None if isinstance(codes, jax.ShapeDtypeStruct) else jax.typeof(codes).sharding
    if sharding is None or not any(sharding.spec):
        return None
    places = map(q.physical, range(q.ndim))
    return NamedSharding(sharding.mesh, PartitionSpec(*(sharding.spec[d] for d in places)))
