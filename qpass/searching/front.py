"""The Pareto front: the least loss in each size."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from qpass.errors import PlanError
from qpass.searching.choose import choose
from qpass.searching.measured import Sensitivity


@dataclass(frozen=True)
class Point:
    """A choice.

    Attributes:
        nbytes: of all parameters.
        loss: the sum of what each weight alone loses.
        schemes: of each weight that was searched.
    """

    nbytes: int
    loss: float
    schemes: tuple[str, ...]


def front(found: Sensitivity, count: int) -> tuple[Point, ...]:
    """The choices of least predicted loss in ``count`` sizes, smallest first, each once.

    The sizes lie between that of all smallest and of all largest options, evenly in the logarithm.
    """
    least, most = (sum(f(o.nbytes for o in group) for group in found.groups) for f in (min, max))
    sizes = np.geomspace(max(least, 1), max(most, 1), count)
    choices = [choose(found.groups, max(least, int(np.ceil(size)))) for size in sizes]
    points = [
        Point(
            found.rest + sum(option.nbytes for option in choice),
            sum(option.loss for option in choice),
            tuple(option.scheme for option in choice),
        )
        for choice in choices
    ]
    return _best(sorted(set(points), key=lambda point: (point.nbytes, point.loss)))


def _best(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those that lose less than all smaller ones."""
    kept: list[Point] = []
    for point in points:
        if not kept or point.loss < kept[-1].loss:
            kept.append(point)
    return tuple(kept)


def plot(points: Sequence[Point], chosen: Point, file: str | PathLike) -> None:
    """Draw size and predicted loss of a front, and of what was chosen.

    Raises:
        PlanError: matplotlib is not installed.
    """
    figure = _figure()
    axes = figure.subplots()
    axes.plot([p.nbytes / 1e6 for p in points], [p.loss for p in points], "o-", label="least loss")
    axes.plot([chosen.nbytes / 1e6], [chosen.loss], "s", markersize=9, label="chosen")
    axes.set(xlabel="parameters in MB", ylabel="predicted loss")
    # Float weights lose nothing, which a logarithm cannot show.
    smallest = min((p.loss for p in points if p.loss > 0), default=1.0)
    axes.set_yscale("symlog", linthresh=smallest)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise PlanError(
            "Install qpass-jax[bench] to draw a front: that takes the package matplotlib."
        ) from error
    return Figure(figsize=(6, 4), layout="constrained")
