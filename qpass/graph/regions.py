"""Regions: several equations of one jaxpr that are computed together.

A region is a proposal of a pass. Whether equations may be computed at one point of the program is
a question about the graph of equations: with every region contracted to one node it must have no
cycle. `admit` says which regions may stand beside each other, `schedule` gives the order in which
a jaxpr with regions is evaluated. What a region computes is its ``action``, a value that means
something to `qpass.graph.rewrite.Operations.region` only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpass.graph._jax import Jaxpr, JaxprEqn, Literal, Var
from qpass.graph.dataflow import Key, Path

type Step = int | Region
"""What is evaluated at once: an equation, by index, or a region."""

CYCLE = "another equation reads a result of one of them and gives an operand of another"
TAKEN = "one of them is computed together with others already"
EFFECTS = "one of them has effects, whose order counts"


@dataclass(frozen=True)
class Region:
    """Equations that are computed together.

    Attributes:
        path: call path of the jaxpr that they are in.
        equations: their indices there, ascending.
        action: what computes them; hashable, equal for equal work.
    """

    path: Path
    equations: tuple[int, ...]
    action: Any

    @property
    def keys(self) -> tuple[Key, ...]:
        """Call path and index of each equation."""
        return tuple((self.path, index) for index in self.equations)


@dataclass(frozen=True, eq=False)
class Member:
    """An equation of a region as its action meets it.

    Attributes:
        eqn: the equation.
        decision: of a site, what was decided there; None for what is no decided site.
        fed: what the site is handed from outside (`qpass.graph.feeds`).
    """

    eqn: JaxprEqn
    decision: Any
    fed: Any


def read_by(jaxpr: Jaxpr, equations: Sequence[int]) -> tuple[Var, ...]:
    """Values from outside that these equations of ``jaxpr`` read, in the order in which they do."""
    inside = [jaxpr.eqns[index] for index in equations]
    made = {var for eqn in inside for var in eqn.outvars}
    read = dict.fromkeys(var for eqn in inside for var in _variables(eqn.invars))
    return tuple(var for var in read if var not in made)


def schedule(jaxpr: Jaxpr, regions: Iterable[Region]) -> tuple[Step, ...] | None:
    """Equations and regions of ``jaxpr`` in an order in which they can be evaluated.

    The order is that of the program as far as possible. Equations with effects keep theirs. None
    where there is no such order.
    """
    steps, follows = _contracted(jaxpr, regions)
    waiting = [0] * len(steps)
    for later in follows:
        for k in later:
            waiting[k] += 1
    ready = [k for k, count in enumerate(waiting) if count == 0]
    order = []
    while ready:  # a heap: ascending numbers are one already
        k = heapq.heappop(ready)
        order.append(steps[k])
        for later in follows[k]:
            waiting[later] -= 1
            if waiting[later] == 0:
                heapq.heappush(ready, later)
    return tuple(order) if len(order) == len(steps) else None


def admit(
    jaxpr: Jaxpr, kept: Sequence[Region], proposed: Sequence[Region]
) -> tuple[tuple[Region, ...], tuple[tuple[Region, str], ...]]:
    """Which regions may be computed beside those that are kept already.

    Args:
        jaxpr: the program that all of them are in.
        kept: legal regions.
        proposed: others; where two exclude each other, the first is taken.

    Returns:
        those of the proposed ones that are legal, and the others, each with the reason.
    """
    taken: list[Region] = []
    refused: list[tuple[Region, str]] = []
    owned = {index for region in kept for index in region.equations}
    for region in proposed:
        why = _why_not(jaxpr, owned, region)
        if why:
            refused.append((region, why))
        else:
            taken.append(region)
            owned.update(region.equations)
    if schedule(jaxpr, (*kept, *taken)) is not None:
        return tuple(taken), tuple(refused)
    return _one_by_one(jaxpr, kept, taken, refused)


def _why_not(jaxpr: Jaxpr, owned: set[int], region: Region) -> str:
    if not owned.isdisjoint(region.equations):
        return TAKEN
    effects = any(jaxpr.eqns[index].effects for index in region.equations)
    return EFFECTS if effects else ""


def _one_by_one(
    jaxpr: Jaxpr, kept: Sequence[Region], proposed: Sequence[Region], refused: list
) -> tuple[tuple[Region, ...], tuple[tuple[Region, str], ...]]:
    taken: list[Region] = []
    for region in proposed:
        if schedule(jaxpr, (*kept, *taken, region)) is None:
            refused.append((region, CYCLE))
        else:
            taken.append(region)
    return tuple(taken), tuple(refused)


def _contracted(jaxpr: Jaxpr, regions: Iterable[Region]) -> tuple[list[Step], list[set[int]]]:
    """The steps, and for each the numbers of those that have to come after it.

    A region has the place of its first equation.
    """
    owner = {index: region for region in regions for index in region.equations}
    steps: list[Step] = []
    number: dict[int, int] = {}
    for index in range(len(jaxpr.eqns)):
        region = owner.get(index)
        if region is None or index == region.equations[0]:
            steps.append(index if region is None else region)
        first = index if region is None else region.equations[0]
        number[index] = number.get(first, len(steps) - 1)
    return steps, _follows(jaxpr, number, len(steps))


def _follows(jaxpr: Jaxpr, number: Mapping[int, int], count: int) -> list[set[int]]:
    follows: list[set[int]] = [set() for _ in range(count)]
    maker: dict[Any, int] = {}
    last = None
    for index, eqn in enumerate(jaxpr.eqns):
        here = number[index]
        before = {maker[var] for var in _variables(eqn.invars) if var in maker}
        if eqn.effects:
            before |= set() if last is None else {last}
            last = here
        for earlier in before - {here}:
            follows[earlier].add(here)
        maker.update((var, here) for var in eqn.outvars)
    return follows


def _variables(atoms: Iterable[Any]) -> Iterable[Any]:
    return (atom for atom in atoms if not isinstance(atom, Literal))
