"""What the values of an equation must be turned by when some of them are: one rule for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from qpass.folds.charge import Charge, Refused
from qpass.folds.layout import LAYOUTS, REDUCE
from qpass.folds.products import met_dims, result_dims
from qpass.folds.rules import RULES, follow_layout
from qpass.folds.search import At, Rule
from qpass.folds.turn import Turn, Turning, power, turned_dims
from qpass.graph.dimensions import dimensions, expert_axis

BY_CHANNEL = "multiplies turned channels by factors of their own"


def _turning(at: At) -> Turning:
    assert isinstance(at.state, Turning)
    return at.state


def is_even(at: At, node: int, charge: Charge) -> bool:
    """Whether a value is the same along the axes that another one is turned along."""
    return _turning(at).is_even(node, turned_dims(charge))


def _product(at: At) -> None:
    """`dot_general` and its ragged kin: what is summed over cancels, other axes are handed on."""
    if at.eqn.primitive.name != "dot_general" and expert_axis(at.eqn) is None:
        raise Refused("is a ragged product of another kind than rows by experts")
    for k in (0, 1):
        charge = at.charge(at.operands[k])
        if charge is not None:
            _through(at, k, charge)
    out = at.charge(at.results[0])
    if out is not None:
        _back(at, out)


def _through(at: At, k: int, charge: Charge) -> None:
    dims, contract = turned_dims(charge), frozenset(dimensions(at.eqn)[0][k])
    node, other, result = at.operands[k], at.operands[1 - k], at.results[0]
    if power(charge) != 1:
        raise Refused("multiplies products of turned channels")
    if dims <= contract:
        at.state.cancelled.add(at.equation)
        at.set(other, at.along(node, charge, met_dims(at.eqn, k), other))
    elif dims <= set(_free(at, k)):
        at.set(result, at.along(node, charge, result_dims(at.eqn, k), result))
    else:
        raise Refused("takes apart channels that are turned together")


def _back(at: At, out: Charge) -> None:
    for k in (0, 1):
        to = {result: d for d, result in _free(at, k).items()}
        if turned_dims(out) <= set(to):
            at.set(at.operands[k], at.along(at.results[0], out, to, at.operands[k]))
            return
    raise Refused("takes apart channels that are turned together")


def _free(at: At, k: int) -> dict[int, int]:
    """The dimension of the result that each dimension that only one operand has becomes."""
    batch = dimensions(at.eqn)[1][k]
    return {d: to for d, to in result_dims(at.eqn, k).items() if d not in batch}


def _convolution(at: At) -> None:
    """Output channels of the kernel, as of an embedding of patches."""
    p, kernel, result = at.eqn.params, at.operands[1], at.results[0]
    out = at.charge(result)
    feature, to = p["dimension_numbers"].out_spec[1], p["dimension_numbers"].rhs_spec[0]
    if out is None or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        raise Refused(Turning.unknown)
    if not turned_dims(out) <= {feature}:
        raise Refused("takes apart channels that are turned together")
    at.set(kernel, at.along(result, out, {feature: to}, kernel))


def _sum(at: At) -> None:
    """``a + b``: both are turned, but for one that is the same in all channels."""
    result, nodes = at.results[0], (*at.operands, *at.results)
    for node in nodes:
        charge = at.charge(node)
        if charge is None:
            continue
        for other in nodes:
            if other == result or at.charge(other) or not is_even(at, other, charge):
                if power(charge) != 1 and other != result and at.charge(other) is None:
                    raise Refused("adds to products of turned channels")
                at.set(other, charge)


def _times(at: At) -> None:
    """``a * b``: one is the same in all channels, or a gain that can become 1."""
    (a, b), result = at.operands, at.results[0]
    first, second, out = (at.charge(node) for node in (a, b, result))
    if first and second:
        _pair(at, first, second)
    elif first or second:
        charge = first or second
        assert charge is not None
        other = b if first else a
        if is_even(at, other, charge) or _is_gain(at, other, charge):
            at.set(result, charge)
    elif out:
        even = [n for n in (a, b) if is_even(at, n, out)]
        even += [n for n in (b, a) if _is_gain(at, n, out)]
        if not even:
            raise Refused("multiplies two values channel by channel")
        at.set(a if even[0] == b else b, out)


def _pair(at: At, first: Charge, second: Charge) -> None:
    """Products of two turned values: what is left to do with them is to sum them up."""
    if power(first) != 1 or power(second) != 1:
        raise Refused("multiplies products of turned channels")
    assert isinstance(first, Turn)
    for node, charge in ((at.operands[0], second), (at.operands[1], first)):
        at.set(node, charge)  # of the same ids, else channels are tied
    at.set(at.results[0], replace(first, power=2))


def _is_gain(at: At, node: int, charge: Charge) -> bool:
    return _turning(at).gain_of(node, turned_dims(charge)) is not None


def _over(at: At) -> None:
    """``a / b`` where b is the same in all channels."""
    (a, b), result = at.operands, at.results[0]
    if at.charge(b):
        raise Refused("divides by turned channels")
    for node, other in ((a, result), (result, a)):
        charge = at.charge(node)
        if charge is not None:
            if not is_even(at, b, charge):
                raise Refused("divides turned channels by factors of their own")
            at.set(other, charge)


def _square(at: At) -> None:
    charge, exponent = at.charge(at.operands[0]), at.eqn.params.get("y", 2)
    if charge is None or power(charge) != 1 or exponent != 2:
        raise Refused(Turning.unknown)
    assert isinstance(charge, Turn)
    at.set(at.results[0], replace(charge, power=2))


def _reduce_sum(at: At) -> None:
    """A sum over all turned channels is not turned: see `qpass.folds.rotating.keeps_ones`."""
    charge = at.charge(at.operands[0])
    axes = set(at.eqn.params["axes"])
    if charge is None or not turned_dims(charge) & axes:
        follow_layout(REDUCE, at)
    elif not turned_dims(charge) <= axes:
        raise Refused("takes apart channels that are turned together")


def _select(at: At) -> None:
    """A choice that is the same for all channels."""
    which, *cases = at.operands
    for node in (*cases, *at.results):
        charge = at.charge(node)
        if charge is not None:
            if not is_even(at, which, charge):
                raise Refused("chooses channel by channel")
            for other in (*cases, *at.results):
                at.set(other, charge)


def _same(at: At) -> None:
    for node, other in ((at.operands[0], at.results[0]), (at.results[0], at.operands[0])):
        charge = at.charge(node)
        if charge is not None:
            at.set(other, charge)


# Of layout operations, those that are none: the greatest of turned values is not the turned one.
_NOT_LINEAR = frozenset({"reduce_max", "reduce_min", "cummax", "cummin"})
_KEPT = ("concatenate", "stack", "split", "unstack", "dynamic_update_slice", "gather", "pad")

TURN_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **{
            name: partial(follow_layout, layout)
            for name, layout in LAYOUTS.items()
            if name not in _NOT_LINEAR
        },
        **{name: RULES[name] for name in (*_KEPT, "optimization_barrier")},
        **dict.fromkeys(("add", "add_any", "sub"), _sum),
        **dict.fromkeys(("dot_general", "ragged_dot_general"), _product),
        **dict.fromkeys(("square", "integer_pow"), _square),
        "conv_general_dilated": _convolution,
        "div": _over,
        "mul": _times,
        "neg": _same,
        "reduce_sum": _reduce_sum,
        "select_n": _select,
    }
)
"""Rules by primitive; any other one computes what does not turn."""
