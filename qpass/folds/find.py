"""Find the folds of a program: where to begin, what a solved search means, and trying it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr

from qpass.errors import FoldError
from qpass.folds.charge import Charge, Refused, classes
from qpass.folds.fold import Fold, Folds, Part, Refusal
from qpass.folds.rules import RULES
from qpass.folds.search import State
from qpass.folds.wiring import Wiring
from qpass.graph.dimensions import dimensions
from qpass.graph.feeds import iterations
from qpass.graph.program import Call
from qpass.graph.sites import Site
from qpass.numerics import QTensor
from qpass.plan import Plan

BOUND = 1e-6
"""Relative difference that a fold may make in float32."""
_IN_A_RULE = frozenset({"fwd", "bwd", "jvp"})


def find_folds(plan: Plan, call: Call) -> Folds:
    """The folds of a program, each tried out on the arguments of a call.

    Raises:
        FoldError: the arguments are no arrays, or the parameters are quantized.
    """
    if any(isinstance(v, QTensor | jax.ShapeDtypeStruct) for v in call.values):
        raise FoldError("ask for folds with float parameters and arrays: they are tried out.")
    wiring = Wiring(plan.dataflow, plan.program.leaves)
    found: list[Fold] = []
    refusals: list[Refusal] = []
    for sites in readers(plan):
        if any(sites[0].id in fold.sites for fold in found):
            continue
        try:
            found.append(_fold(plan, wiring, sites[0]))
        except Refused as reason:
            refusals.append(Refusal(tuple(site.id for site in sites), str(reason)))
    return _tried(plan, call, found, refusals)


def readers(plan: Plan) -> Iterator[list[Site]]:
    """Products of a weight, those together that read one value."""
    readers: dict[int, list[Site]] = {}
    for decision in plan.decisions:
        site = decision.site
        is_in_a_rule = any(name in _IN_A_RULE for _, name in site.key[0])
        is_product = site.op in ("dot_general", "ragged_dot_general")
        if site.role == "forward" and is_product and not site.forward and not is_in_a_rule:
            assert site.weight is not None  # of a forward product
            readers.setdefault(site.nodes[1 - site.weight], []).append(site)
    yield from readers.values()


def _fold(plan: Plan, wiring: Wiring, site: Site) -> Fold:
    """The fold of what a product reads.

    Raises:
        Refused: there is none.
    """
    assert site.weight is not None
    node, charge, shape = _seed(plan, site)
    state = State(wiring, RULES)
    state.put(node, charge)
    state = state.solve()
    groups = classes(math.prod(shape), state.ties).reshape(shape)
    if np.all(groups == groups[..., :1]):
        raise Refused("all of its channels would have to have one factor")
    keys = {wiring.attribute(equation, "key") for equation in state.cancelled}
    consumers = [d.site for d in plan.decisions if d.site.key in keys]
    return Fold(tuple(s.id for s in consumers), _parts(plan, wiring, state), groups)


def _seed(plan: Plan, site: Site) -> tuple[int, Charge, tuple[int, ...]]:
    """The value that a product reads, divided by a factor for each channel in each iteration."""
    act = 1 - (site.weight or 0)
    summed = dimensions(site.eqn)[0][act]
    loops = iterations(plan.program.jaxpr, plan.dataflow.derivatives, site.key[0])
    sizes = site.eqn.invars[act].aval.shape
    channels = [sizes[d] for d in summed]
    count = math.prod(channels)
    ids = np.arange(math.prod(loops) * count, dtype=np.int32)
    order = [summed.index(d) for d in sorted(summed)]
    ids = ids.reshape(*loops, *channels)
    ids = ids.transpose(*range(len(loops)), *(len(loops) + k for k in order))
    whole = [n if d in summed else 1 for d, n in enumerate(sizes)]
    return site.nodes[act], Charge(ids.reshape(*loops, *whole), -1), (*loops, count)


def _parts(plan: Plan, wiring: Wiring, state: State) -> tuple[Part, ...]:
    leaves = plan.program.leaves
    order = parameter_leaves(plan)
    weights = {d.site.leaf for d in plan.decisions}
    parts = []
    for node, charge in state.charges.items():
        leaf = wiring.attribute(node, "leaf")
        if leaf is not None:
            path = leaves[leaf].path
            parts.append(Part(order.index(leaf), path, charge, leaf in weights))
    if not any(part.charge.sign < 0 for part in parts):
        raise Refused("no parameter before it could take the factors")
    return tuple(sorted(parts, key=lambda part: part.position))


def _tried(plan: Plan, call: Call, found: list[Fold], refusals: list[Refusal]) -> Folds:
    """Those that change no result."""
    kept, errors, error = tried(plan, call, found, partial(_scaled, plan, call), BOUND)
    refusals += [Refusal(fold.sites, changes(e, BOUND)) for fold, e in errors]
    return Folds(tuple(kept), tuple(refusals), error)


def tried[T](
    plan: Plan,
    call: Call,
    found: Sequence[T],
    changed: Callable[[Sequence[T]], list[Any]],
    bound: float,
) -> tuple[Sequence[T], list[tuple[T, float]], float]:
    """Try out all at once, and one by one where that shows a difference.

    Args:
        plan: of the call.
        call: with the arguments that they are tried out on.
        found: what is tried out.
        changed: the program's inputs with some of them applied.
        bound: relative difference that may be made.

    Returns:
        those that change no result; the others, with the difference that each makes; what all
        of the first make together.
    """
    jaxpr = plan.program.jaxpr
    run = jax.jit(lambda values: eval_jaxpr(jaxpr, jaxpr.consts, *values))
    wanted = _floats(run(list(call.values)))

    def difference(some: Sequence[T]) -> float:
        pairs = zip(_floats(run(changed(some))), wanted, strict=True)
        return max((_relative(got, want) for got, want in pairs), default=0.0)

    error = difference(found) if found else 0.0
    if error <= bound:
        return found, [], error
    errors = [(one, difference([one])) for one in found]
    kept = [one for one, e in errors if e <= bound]
    wrong = [(one, e) for one, e in errors if not e <= bound]
    return kept, wrong, difference(kept) if kept else 0.0


def changes(error: float, bound: float) -> str:
    """The reason of a refusal, of what made a difference."""
    return f"tried out, it changes the result by {error:.1e} of it; {bound:.0e} is allowed"


def _scaled(plan: Plan, call: Call, folds: Sequence[Fold]) -> list[Any]:
    """The arguments with folds applied.

    The factors are powers of two: what is multiplied by them and divided again has the same bits,
    so that all of a difference is the fold's.
    """
    drawn = [
        np.random.default_rng(seed).integers(-2, 3, fold.groups.max() + 1)[fold.groups]
        for seed, fold in enumerate(folds)
    ]
    factors = [jnp.asarray(2.0**exponents, jnp.float32) for exponents in drawn]
    return scaled(plan, call.values, folds, factors)


def scaled(
    plan: Plan, values: Sequence[Any], folds: Sequence[Fold], factors: Sequence[jax.Array]
) -> list[Any]:
    """A program's inputs with these factors folded in; can be traced."""
    order, values = parameter_leaves(plan), list(values)
    for fold, s in zip(folds, factors, strict=True):
        for part in fold.parts:
            k = order[part.position]
            values[k] = part.scaled(values[k], jnp.ravel(s))
    return values


def parameter_leaves(plan: Plan) -> list[int]:
    """Indices of all inputs that are of an argument with parameters."""
    leaves = plan.program.leaves
    holders = {leaf.argument for leaf in leaves if leaf.is_param}
    return [k for k, leaf in enumerate(leaves) if leaf.argument in holders]


def _floats(results: Sequence[jax.Array]) -> list[np.ndarray]:
    return [np.asarray(r, np.float64) for r in results if jnp.issubdtype(r.dtype, jnp.floating)]


def _relative(got: np.ndarray, wanted: np.ndarray) -> float:
    """Norm of the difference over that of what is wanted, of what is finite there."""
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return math.inf
    error, size = np.linalg.norm(got[finite] - wanted[finite]), np.linalg.norm(wanted[finite])
    return float(error / size) if size else (0.0 if error == 0 else math.inf)
