"""Charges at a product of two arrays: factors along what is summed over cancel, others pass."""

from __future__ import annotations

from functools import partial

from qpass.folds.charge import Charge, Refused
from qpass.folds.search import At
from qpass.graph._jax import JaxprEqn
from qpass.graph.dimensions import dimensions, expert_axis


def result_dims(eqn: JaxprEqn, k: int) -> dict[int, int]:
    """The dimension of the result that each dimension of an operand becomes."""
    batch = dimensions(eqn)[1]
    free = [_free(eqn, side) for side in (0, 1)]
    start = len(batch[0]) + (len(free[0]) if k else 0)
    found = {d: j for j, d in enumerate(batch[k])}
    return found | {d: start + j for j, d in enumerate(free[k])}


def _free(eqn: JaxprEqn, k: int) -> list[int]:
    """Dimensions of an operand that only it has; of a ragged product's weight not the experts."""
    contract, batch = dimensions(eqn)
    gone = {*contract[k], *batch[k], *([expert_axis(eqn)] if k == 1 else [])}
    return [d for d in range(eqn.invars[k].aval.ndim) if d not in gone]


def met_dims(eqn: JaxprEqn, k: int) -> dict[int, int]:
    """The dimension of the other operand that each dimension of one meets."""
    contract, batch = dimensions(eqn)
    mine, theirs = ((*contract[s], *batch[s]) for s in (k, 1 - k))
    return dict(zip(mine, theirs, strict=True))


def product(at: At) -> None:
    """The rule of `dot_general` and of its ragged kin."""
    if at.eqn.primitive.name != "dot_general" and expert_axis(at.eqn) is None:
        raise Refused("is a ragged product of another kind than rows by experts")
    contract = dimensions(at.eqn)[0]
    charges = [at.plain(node) for node in at.operands[:2]]
    out = at.plain(at.results[0])
    summed = [k for k, c in enumerate(charges) if c and _changes(at, k, c, contract[k])]
    if summed:
        _cancel(at, charges, out)
    elif any(charges):
        _pass(at, charges, out)
    elif out:
        at.choose([(at.operands[k], partial(_back, k=k, out=out)) for k in (0, 1)])


def _changes(at: At, k: int, charge: Charge, dims: tuple[int, ...]) -> bool:
    lead = at.lead(charge, at.operands[k])
    return any(charge.ids.shape[lead + d] > 1 for d in dims)


def _cancel(at: At, charges: list[Charge | None], out: Charge | None) -> None:
    """Each operand gets the inverse of the other along what is summed over."""
    if out is not None:
        raise Refused("sums over channels with factors, and its result has to carry them")
    at.state.cancelled.add(at.equation)
    for k, charge in enumerate(charges):
        if charge is not None:
            node, other = at.operands[k], at.operands[1 - k]
            at.set(other, at.along(node, charge, met_dims(at.eqn, k), other).inverse())


def _pass(at: At, charges: list[Charge | None], out: Charge | None) -> None:
    """The operand that is charged hands its factors on to the result."""
    if all(charges):
        raise Refused("multiplies two values that both carry the factors")
    result = at.results[0]
    for k, charge in enumerate(charges):
        if charge is not None:
            at.set(result, at.along(at.operands[k], charge, result_dims(at.eqn, k), result))
            if out is not None:
                at.set(at.operands[k], _back(at, k, out))


def _back(at: At, k: int, out: Charge) -> Charge:
    dims = {result: d for d, result in result_dims(at.eqn, k).items()}
    return at.along(at.results[0], out, dims, at.operands[k])
