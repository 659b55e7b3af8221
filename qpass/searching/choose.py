"""Choose one option for each weight: the least loss within a size or a time, or the least size.

Multiple-choice knapsacks, solved to optimality by `scipy.optimize.milp` (HiGHS).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from qpass.errors import PlanError

STEPS = 1 << 20
"""What a limit of losses is divided into: the solver gets whole numbers."""

type Groups = Sequence[Sequence["Option"]]


@dataclass(frozen=True)
class Option:
    """A way to store a weight.

    Attributes:
        scheme: its name: the text of a quantizer, or "float".
        loss: what it costs in quality, finite; losses of several weights are added.
        nbytes: bytes that the weight takes so.
        error: the largest relative error of a product with it; None where that was not measured.
        nanoseconds: that its products are expected to take in one call; None where nobody knows.
    """

    scheme: str
    loss: float
    nbytes: int
    error: float | None = None
    nanoseconds: int | None = None


def choose(groups: Groups, budget: int, amount: str = "nbytes") -> tuple[Option, ...]:
    """An option of each group: the sum of losses is least where that of bytes is in the budget.

    Args:
        groups: what there is to choose from, at least one option each.
        budget: bytes for all groups together.
        amount: what is in the budget: "nbytes", or "nanoseconds".

    Raises:
        PlanError: no group, one without options, a loss that is not finite, a budget below the
            smallest sum of bytes, or the solver ends without a choice that fits.
    """
    unit_name = "bytes" if amount == "nbytes" else amount
    smallest = _least(groups, attrgetter(amount))
    if budget < smallest:
        raise PlanError(f"give a budget of at least {smallest:,} {unit_name}; got {budget:,}.")
    flat = _flat(groups)
    amounts = [getattr(option, amount) for option in flat]
    # In the largest common unit, small whole numbers: the solver has tolerances, bytes have none.
    unit = math.gcd(*amounts) or 1
    losses = np.array([option.loss for option in flat])
    chosen = _solved(groups, losses, np.array(amounts, float) // unit, budget // unit)
    if sum(map(attrgetter(amount), chosen)) > budget:
        raise PlanError(f"choose within {budget:,} {unit_name}: the solver's choice does not fit.")
    return chosen


def smallest(groups: Groups, loss: float) -> tuple[Option, ...]:
    """An option of each group: the sum of bytes is least where that of losses is at most ``loss``.

    Losses are rounded up to a millionth part of the limit, so a choice that exhausts it may be
    missed by as much.

    Args:
        groups: as of `choose`.
        loss: the limit, positive.

    Raises:
        PlanError: as `choose`, and where no choice loses as little as that.
    """
    least = _least(groups, lambda option: option.loss)
    if not (0 < loss < math.inf and least <= loss):
        raise PlanError(f"give a loss that is positive and at least {least:.3g}; got {loss:.3g}.")
    flat = _flat(groups)
    steps = np.ceil(np.array([option.loss for option in flat]) / loss * STEPS)
    return _solved(groups, np.array([option.nbytes for option in flat], float), steps, STEPS)


def _flat(groups: Groups) -> list[Option]:
    return [option for group in groups for option in group]


def _least(groups: Groups, amount: Callable[[Option], Any]) -> Any:
    """The least sum that there is of an amount."""
    if not groups or not all(groups):
        raise PlanError("choose among at least one group, each with at least one option.")
    wrong = [option for option in _flat(groups) if not math.isfinite(option.loss)]
    if wrong:
        raise PlanError(f"choose among options of finite loss; got {wrong[0]}.")
    return sum(min(map(amount, group)) for group in groups)


def _solved(
    groups: Groups, costs: np.ndarray, weights: np.ndarray, limit: float
) -> tuple[Option, ...]:
    """One option of each group, of least cost where the weights sum up to the limit at most."""
    optimize = _scipy()
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    one_each = (owner == np.arange(len(groups))[:, None]).astype(float)
    found = optimize.milp(
        costs / (np.abs(costs).max() or 1.0),
        integrality=np.ones(len(costs)),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint(weights[None], ub=limit),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise PlanError(f"choose within a larger budget: the solver says: {found.message}")
    flat = _flat(groups)
    chosen = tuple(option for option, x in zip(flat, found.x, strict=True) if x > 0.5)
    if len(chosen) != len(groups):
        raise PlanError("choose among other options: the solver takes none or two of a group.")
    return chosen


def _scipy() -> Any:
    try:
        from scipy import optimize
    except ModuleNotFoundError as error:
        raise PlanError(
            "Install qpass-jax[search] to choose under a budget: that takes the package scipy."
        ) from error
    return optimize
