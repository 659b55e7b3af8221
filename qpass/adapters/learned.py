"""Learned ranges of weights: `{path of the weight: (lo, hi)}`, of the shape of its scales."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from qpass.adapters.named import check_float, misfits
from qpass.errors import CalibrationError, CallError
from qpass.numerics import QTensor
from qpass.numerics.axes import count_blocks
from qpass.numerics.granularity import block_sizes
from qpass.numerics.quantize import find_range
from qpass.ops.weights import Storage
from qpass.plan import Plan
from qpass.suggest import shortened

type Bounds = tuple[jax.Array, jax.Array]


def learned_leaves(plan: Plan) -> dict[int, Storage]:
    """Stored weights whose range is learned, by index of the input."""
    return {k: storage for k, storage in plan.storage.items() if storage.quantizer.is_learned}


def learned_paths(plan: Plan) -> dict[str, int]:
    """The inputs that they are, by path."""
    return {plan.program.leaves[k].path: k for k in learned_leaves(plan)}


def init_ranges(plan: Plan, values: Sequence[Any]) -> dict[str, Bounds]:
    """The ranges that weights have by themselves, by the method that their quantizer names.

    Raises:
        CallError: no range is learned, or such a weight comes quantized.
    """
    leaves = learned_leaves(plan)
    if not leaves:
        raise CallError("give rules with a learned range, as weight='int4 g32 lsq': none has one.")
    check_float({path: values[k] for path, k in learned_paths(plan).items()}, "find ranges")
    return {plan.program.leaves[k].path: _own(values[k], leaves[k]) for k in leaves}


def _own(x: jax.Array, storage: Storage) -> Bounds:
    return find_range(x, _blocks(x.shape, storage), storage.quantizer)


def _blocks(shape: tuple[int, ...], storage: Storage) -> tuple[int, ...]:
    return block_sizes(shape, storage.quantizer.granularity, storage.contract, storage.separate)


def weight_ranges(plan: Plan, ranges: Mapping[str, Any]) -> dict[int, Bounds]:
    """Those of the ranges that are of weights, by index of the input."""
    return {k: ranges[path] for path, k in learned_paths(plan).items() if path in ranges}


def check_learned(plan: Plan, ranges: Mapping[str, Any], values: Sequence[Any]) -> None:
    """Hold the ranges against the weights whose range is learned; a quantized one needs none.

    Raises:
        CalibrationError: a float weight has none or one of another shape, or is not stored.
    """
    unstored = [
        d.site.id
        for d in plan.decisions
        if d.action is not None
        and d.action.quantizer.is_learned
        and not (d.stored or d.action.quantizer.is_static)
    ]
    if unstored:
        raise CalibrationError(
            f"learn ranges of weights that are stored; {shortened(unstored, 5)} quantizes its "
            "weight on every call, for the reason that the plan gives."
        )
    paths = learned_paths(plan)
    missing = [
        p for p, k in paths.items() if p not in ranges and not isinstance(values[k], QTensor)
    ]
    if missing:
        raise CalibrationError(
            "give learned ranges, as q.with_ranges(q.init_ranges(params, *args)): there are none "
            f"for {shortened(missing, 5)}."
        )
    wrong = [
        text
        for path, k in paths.items()
        if path in ranges
        for bound in ranges[path]
        for text in misfits(f"that of {path}", bound, _shape(plan, k))
    ]
    if wrong:
        raise CalibrationError(f"give ranges of the shape of the scales: {shortened(wrong, 5)}.")


def _shape(plan: Plan, index: int) -> tuple[int, ...]:
    shape = tuple(plan.program.jaxpr.invars[index].aval.shape)
    return tuple(map(count_blocks, shape, _blocks(shape, plan.storage[index])))
