"""Find the rotations of a program: where to begin, what a solved search demands, trying it out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qpass.folds.charge import Refused
from qpass.folds.find import changes, find_folds, parameter_leaves, readers, tried
from qpass.folds.fold import Folds, Refusal
from qpass.folds.hadamard import block_order
from qpass.folds.products import result_dims
from qpass.folds.rotation import Gain, Rotation, Rotations, Side
from qpass.folds.turn import Turn, Turning, power, runs, turned_dims
from qpass.folds.turn_rules import BY_CHANNEL, TURN_RULES
from qpass.folds.wiring import Wiring
from qpass.graph.dimensions import dimensions
from qpass.graph.program import Call
from qpass.graph.provenance import LAYOUT
from qpass.graph.sites import Site
from qpass.plan import Plan


@dataclass(frozen=True, eq=False)
class Seed:
    """A value that a search begins at.

    Attributes:
        node: the value.
        ids: which of its channels are turned together.
        sites: ids of the products that read it; empty where another search tells of them.
    """

    node: int
    ids: np.ndarray
    sites: tuple[str, ...] = ()


def find_rotations(plan: Plan, call: Call, bound: float) -> Rotations:
    """The rotations of a program, each tried out on the arguments of a call.

    Raises:
        FoldError: the arguments are no arrays, or the parameters are quantized.
    """
    folds = find_folds(plan, call)
    wiring = Wiring(plan.dataflow, plan.program.leaves)
    found: list[tuple[Rotation, Turning]] = []
    refusals: list[Refusal] = []
    for seed in (*_read(plan), *_mixed(plan, wiring)):
        if any(seed.node in state.charges for _, state in found):
            continue
        try:
            found.append(_rotation(plan, wiring, folds, seed))
        except Refused as reason:
            if seed.sites:
                refusals.append(Refusal(seed.sites, str(reason)))
    rotations = [rotation for rotation, _ in found]
    covered = {site for rotation in rotations for site in rotation.sites}
    refusals = [r for r in refusals if not covered.issuperset(r.sites)]
    return _tried(plan, call, rotations, refusals, bound)


def _read(plan: Plan) -> Iterator[Seed]:
    """What products of weights read, along all that they sum over: the residual stream."""
    for sites in readers(plan):
        site = sites[0]
        act = 1 - (site.weight or 0)
        summed = dimensions(site.eqn)[0][act]
        sizes = site.eqn.invars[act].aval.shape
        whole = [n if d in summed else 1 for d, n in enumerate(sizes)]
        ids = np.arange(math.prod(whole), dtype=np.int32).reshape(whole)
        yield Seed(site.nodes[act], ids, tuple(s.id for s in sites))


def _mixed(plan: Plan, wiring: Wiring) -> Iterator[Seed]:
    """Results of products of two activations along what only one of them has: values of heads."""
    products = [
        d.site for d in plan.decisions if d.site.weight is None and d.site.op == "dot_general"
    ]
    graph = wiring.dataflow.graph
    keys = {graph.nodes[n]["key"]: n for n in graph if wiring.attribute(n, "kind") == "equation"}
    for site in products:
        (result,) = wiring.results(keys[site.key])
        sizes = site.eqn.outvars[0].aval.shape
        for d in _free(site):
            shape = [n if k == d else 1 for k, n in enumerate(sizes)]
            yield Seed(result, np.arange(sizes[d], dtype=np.int32).reshape(shape))


def _free(site: Site) -> list[int]:
    batch = dimensions(site.eqn)[1]
    sides = (result_dims(site.eqn, k).items() for k in (0, 1))
    return [to for k, side in enumerate(sides) for d, to in side if d not in batch[k]]


def _rotation(plan: Plan, wiring: Wiring, folds: Folds, seed: Seed) -> tuple[Rotation, Turning]:
    """The rotation that turns a value, and all that is turned with it.

    Raises:
        Refused: there is none.
    """
    size = seed.ids.size
    if block_order(size) < 2:
        raise Refused(f"is of {size} channels: no divisor of them is the order of a known matrix")
    state = Turning(wiring, TURN_RULES)
    state.put(seed.node, Turn(seed.ids, 1))
    state.solve()
    for node, charge in state.charges.items():
        _check_whole(state, node, charge.ids, size)
    demands = list(_demands(plan, state, folds))
    keys = {wiring.attribute(equation, "key") for equation in state.cancelled}
    sites = [d.site.id for d in plan.decisions if d.site.key in keys]
    gains = {id(one.fold): one for one in demands if one is not None}
    sides = tuple(_sides(plan, wiring, state))
    if not sides:
        raise Refused("turns no parameter")
    keeps_ones = any(one is None for one in demands)
    return Rotation(tuple(sites), tuple(gains.values()), sides, size, keeps_ones), state


def _check_whole(state: Turning, node: int, ids: np.ndarray, size: int) -> None:
    via = state.via.get(node)
    try:
        runs(ids, size)
    except Refused as reason:
        raise (state.located(via[0], str(reason)) if via else reason) from None


def _sides(plan: Plan, wiring: Wiring, state: Turning) -> Iterator[Side]:
    order = parameter_leaves(plan)
    for node, charge in state.charges.items():
        leaf = wiring.attribute(node, "leaf")
        if leaf is not None:
            yield Side(order.index(leaf), plan.program.leaves[leaf].path, charge.ids)


def _demands(plan: Plan, state: Turning, folds: Folds) -> Iterator[Gain | None]:
    """What has to hold for the values to turn: gains that become 1; None for: keep means.

    Raises:
        Refused: what cannot be had.
    """
    wiring = state.wiring
    near = {e for node in state.charges for e in wiring.equations(node)}
    for equation in sorted(near):
        op = wiring.attribute(equation, "op")
        operands = wiring.operands(equation)
        still = [n for n in operands if n not in state.charges and not wiring.absorbs(n)]
        (result, *_) = wiring.results(equation) or (-1,)
        turned = [state.charges[n] for n in (*operands, result) if n in state.charges]
        is_sum = op == "reduce_sum" and result not in state.charges
        is_shift = op in ("add", "add_any", "sub") and bool(still)
        if (is_sum or is_shift) and power(turned[0]) == 1:
            yield None
        elif op == "mul" and still and not state.is_even(still[0], turned_dims(turned[0])):
            yield from _gains(plan, state, folds, equation, still[0])


def _gains(plan: Plan, state: Turning, folds: Folds, equation: int, node: int) -> Iterator[Gain]:
    """The folds that make a gain 1, all of it."""
    (result,) = state.wiring.results(equation)
    dims = turned_dims(state.charges[result]) if result in state.charges else frozenset()
    leaf = state.gain_of(node, dims)
    if leaf is None or result not in state.charges or power(state.charges[result]) != 1:
        raise state.located(equation, BY_CHANNEL)
    path, position = plan.program.leaves[leaf].path, parameter_leaves(plan).index(leaf)
    gains = [
        Gain(f, p) for f in folds for p in f.parts if p.position == position and p.charge.sign < 0
    ]
    shape = plan.program.jaxpr.invars[leaf].aval.shape
    covered = np.zeros(shape, bool)
    for gain in gains:
        covered |= np.broadcast_to(gain.part.charge.ids >= 0, shape)
    if not covered.all():
        raise state.located(
            equation, f"{BY_CHANNEL}, {path}, {_why_kept(plan, state, folds, result)}"
        )
    yield from gains


def _why_kept(plan: Plan, state: Turning, folds: Folds, result: int) -> str:
    """Why a gain cannot go into the products that follow."""
    wiring, todo, ends = state.wiring, [result], set()
    while todo:
        node = todo.pop()
        for equation in (e for e in wiring.equations(node) if node in wiring.operands(e)):
            is_layout = wiring.attribute(equation, "op") in LAYOUT
            todo += wiring.results(equation) if is_layout else []
            ends |= set() if is_layout else {equation}
        todo += [border.inside for border in wiring.borders(node) if border.outside == node]
    if not ends <= state.cancelled:
        return "and is no gain before products: it belongs to a norm after its block (post-norm)"
    keys = {wiring.attribute(equation, "key") for equation in ends}
    sites = {d.site.id for d in plan.decisions if d.site.key in keys}
    reasons = [r.reason for r in folds.refusals if sites & set(r.sites)]
    return (
        f"which the products after it cannot take: {reasons[0] if reasons else 'no fold is known'}"
    )


def _tried(
    plan: Plan, call: Call, found: Sequence[Rotation], refusals: list[Refusal], bound: float
) -> Rotations:
    order = parameter_leaves(plan)

    def turned(rotations: Sequence[Rotation]) -> list[Any]:
        values, own = list(call.values), [call.values[k] for k in order]
        for rotation in rotations:
            own = rotation.turned(own, found.index(rotation))
        for k, value in zip(order, own, strict=True):
            values[k] = value
        return values

    kept, errors, error = tried(plan, call, found, turned, bound)
    refusals += [Refusal(one.sites, changes(e, bound)) for one, e in errors]
    return Rotations(tuple(kept), tuple(refusals), error)
