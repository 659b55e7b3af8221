"""What the values of an equation must carry when some of them carry a charge: one rule for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np

from qpass.folds.charge import Charge, Refused, constant_along
from qpass.folds.layout import LAYOUTS, Layout, cut, placed
from qpass.folds.products import product
from qpass.folds.search import At, Rule


def follow_layout(layout: Layout, at: At) -> None:
    """The rule of an operation that only re-arranges elements."""
    operand, result, ties = at.operands[0], at.results[0], at.state.ties
    for node, other, move in (
        (operand, result, layout.forward),
        (result, operand, layout.backward),
    ):
        charge = at.charge(node)
        if charge is not None:
            ids = move(at.eqn, charge.ids, at.lead(charge, node), ties)
            at.set(other, charge.moved(ids))


def _join(at: At, nodes: Iterable[int]) -> None:
    """All of these values carry the same charge."""
    nodes = tuple(nodes)
    for node in nodes:
        charge = at.plain(node)
        if charge is not None:
            for other in nodes:
                at.set(other, charge)


def _elementwise(skipped: int, at: At) -> None:
    """The result scales with all its operands, but for the first few."""
    _join(at, (*at.operands[skipped:], *at.results))


def _one_by_one(at: At) -> None:
    for operand, result in zip(at.operands, at.results, strict=True):
        _affine(at, operand, 1.0, 0.0, result)


def _affine(at: At, operand: int, factor: float, constant: float, result: int) -> None:
    """``result = factor * operand + constant``: what is added to the values moves along."""
    charge, other = at.charge(operand), at.charge(result)
    if factor == 0 or not math.isfinite(factor) or not math.isfinite(constant):
        raise Refused("meets a constant, which stays as it is")
    if charge is not None:
        shift = factor * charge.shift - constant
        at.set(result, replace(charge, shift=shift))
    if other is not None:
        shift = (other.shift + constant) / factor
        at.set(operand, replace(other, shift=shift))


def _sum(sign: int, at: At) -> None:
    """``a + b`` or ``a - b``; either may be a number."""
    a, b = at.operands
    one, other = (at.state.wiring.number(node) for node in (a, b))
    if other is not None:
        _affine(at, a, 1.0, sign * other, at.results[0])
    elif one is not None:
        _affine(at, b, float(sign), one, at.results[0])
    else:
        _join(at, (a, b, at.results[0]))


def _times(at: At) -> None:
    a, b = at.operands
    one, other = (at.state.wiring.number(node) for node in (a, b))
    if other is not None or one is not None:
        operand, factor = (b, one) if other is None else (a, other)
        assert factor is not None
        _affine(at, operand, factor, 0.0, at.results[0])
    else:
        _factors(at, inverted=False)


def _over(at: At) -> None:
    a, b = at.operands
    number = at.state.wiring.number(b)
    if number:
        _affine(at, a, 1 / number, 0.0, at.results[0])
    else:
        _factors(at, inverted=True)


def _factors(at: At, inverted: bool) -> None:
    """``a * b`` or ``a / b`` of two values: one carries the charge, or both cancel."""
    (a, b), result = at.operands, at.results[0]

    def turned(charge: Charge) -> Charge:
        return charge.inverse() if inverted else charge

    first, second, out = at.plain(a), at.plain(b), at.plain(result)
    second = turned(second) if second else None
    if first and second:
        _cancel(at, first, second, out)
        at.set(a, second.inverse())
        at.set(b, turned(first.inverse()))
    elif first:
        _join(at, (a, result))
    elif second:
        at.set(result, second)
        if out:
            at.set(b, turned(out))
    elif out:
        at.choose([(a, lambda _: out), (b, lambda _: turned(out))])


def _cancel(at: At, first: Charge, second: Charge, out: Charge | None) -> None:
    if first.sign == second.sign:
        raise Refused("multiplies two values that both carry the factors")
    if out is not None:
        raise Refused("has factors that cancel, and a result that has to carry them")


def _compare(at: At) -> None:
    """A comparison with zero comes out the same: factors are positive."""
    a, b = at.operands
    if at.state.wiring.number(a) != 0 and at.state.wiring.number(b) != 0:
        raise Refused("compares it with other numbers than zero")
    for node in (a, b):
        at.plain(node)


def _parts(at: At, whole: int, parts: Sequence[int]) -> None:
    """Some values are consecutive parts of another along an axis, which those of a stack lack."""
    p, wiring = at.eqn.params, at.state.wiring
    dim = p["dimension"] if "dimension" in p else p["axis"]
    is_stack = wiring.ndim(parts[0]) < wiring.ndim(whole)
    sizes = [1 if is_stack else wiring.attribute(node, "aval").shape[dim] for node in parts]
    charge = at.charge(whole)
    for k, (size, part) in enumerate(zip(sizes, parts, strict=True)):
        own, start = at.charge(part), sum(sizes[:k])
        if own is not None:
            axis = at.lead(own, part) + dim
            ids = np.expand_dims(own.ids, axis) if is_stack else own.ids
            at.set(whole, own.moved(placed(ids, axis, start, size, sum(sizes))))
        if charge is not None:
            axis = at.lead(charge, whole) + dim
            ids = cut(charge.ids, axis, start, start + size)
            at.set(part, charge.moved(ids.squeeze(axis) if is_stack else ids))


def _join_parts(at: At) -> None:
    _parts(at, at.results[0], at.operands)


def _take_parts(at: At) -> None:
    _parts(at, at.operands[0], at.results)


def _pad(at: At) -> None:
    """Padding with zeros."""
    (operand, padding), result = at.operands, at.results[0]
    edges = at.eqn.params["padding_config"]
    sizes = at.state.wiring.attribute(operand, "aval").shape
    if not at.state.wiring.absorbs(padding) or any(min(edge) < 0 or edge[2] for edge in edges):
        raise Refused("meets a constant, which stays as it is")
    for node, other in ((operand, result), (result, operand)):
        charge = at.plain(node)
        if charge is None:
            continue
        ids = charge.ids
        for d, (low, high, _) in enumerate(edges):
            axis = at.lead(charge, node) + d
            if ids.shape[axis] > 1 and node == operand:
                ids = placed(ids, axis, low, sizes[d], low + sizes[d] + high)
            elif node == result:
                ids = cut(ids, axis, low, low + sizes[d])
        at.set(other, charge.moved(ids))


def _update(at: At) -> None:
    """A part of a value is replaced: factors must not change along the axes that it is part of."""
    operand, update = at.operands[:2]
    shapes = (at.state.wiring.attribute(node, "aval").shape for node in (operand, update))
    partial_dims = [d for d, (n, m) in enumerate(zip(*shapes, strict=True)) if n != m]
    nodes = (operand, update, at.results[0])
    for node in nodes:
        charge = at.plain(node)
        if charge is None:
            continue
        axes = [at.lead(charge, node) + d for d in partial_dims]
        even = charge.moved(constant_along(charge.ids, axes, at.state.ties))
        for other in nodes:
            at.set(other, even)


def _gather(at: At) -> None:
    """Whole slices of an array: rows of a table."""
    operand, result = at.operands[0], at.results[0]
    numbers, sizes = at.eqn.params["dimension_numbers"], at.eqn.params["slice_sizes"]
    shape = at.state.wiring.attribute(operand, "aval").shape
    gone = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    kept = [d for d in range(len(shape)) if d not in gone]
    to = dict(zip(kept, numbers.offset_dims, strict=True))
    whole = {d: to[d] for d in kept if sizes[d] == shape[d]}
    _along(at, operand, result, whole)
    _along(at, result, operand, {out: d for d, out in whole.items()})


def _along(at: At, node: int, other: int, dims: Mapping[int, int]) -> None:
    charge = at.plain(node)
    if charge is not None:
        at.set(other, at.along(node, charge, dims, other))


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **{name: partial(follow_layout, layout) for name, layout in LAYOUTS.items()},
        **dict.fromkeys(("eq", "ge", "gt", "le", "lt", "ne"), _compare),
        **dict.fromkeys(("concatenate", "stack"), _join_parts),
        **dict.fromkeys(("split", "unstack"), _take_parts),
        **dict.fromkeys(("max", "min", "abs"), partial(_elementwise, 0)),
        **dict.fromkeys(("dot_general", "ragged_dot_general"), product),
        "add": partial(_sum, 1),
        "add_any": partial(_sum, 1),
        "div": _over,
        "dynamic_update_slice": _update,
        "gather": _gather,
        "mul": _times,
        "neg": lambda at: _affine(at, at.operands[0], -1.0, 0.0, at.results[0]),
        "optimization_barrier": _one_by_one,
        "pad": _pad,
        "select_n": partial(_elementwise, 1),
        "sub": partial(_sum, -1),
    }
)
"""Rules by primitive; any other one computes what is not proportional to what it reads."""
