"""Follow a charge through a program until parameters carry all of it, or it cannot be carried.

From the value that is charged first, each equation that touches a charged value says what its other
values must carry (`qpass.folds.rules`), until nothing new follows. Where one of two factors of a
product has to carry a charge, parameters are tried first, and what leads nowhere is taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np

from qpass.folds.charge import Charge, Refused, Ties, constant_along, joined
from qpass.folds.wiring import Border, Wiring
from qpass.graph._jax import JaxprEqn
from qpass.graph.provenance import LAYOUT

STEPS = 20_000
"""How many equations are looked at for one fold, with all ways that are tried."""
SHOWN = 6

type Option = tuple[int, Callable[["At"], Charge]]
type Rule = Callable[["At"], None]


@dataclass(eq=False)
class State:
    """What carries which charge so far.

    Attributes:
        wiring: the program.
        rules: for each primitive, what its values must carry.
        charges: of each charged value.
        ties: factors that have to be equal.
        cancelled: products in whose sum factors cancel.
        via: for each charged value, the equation that it was charged by, and from which value.
        open: equations one of whose operands has yet to carry the charge of the result.
        queue: what is to be looked at again.
        steps: how much was looked at, by all states that stem from one.
    """

    wiring: Wiring
    rules: Mapping[str, Rule]
    charges: dict[int, Charge] = field(default_factory=dict)
    ties: Ties = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    via: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    open: dict[int, list[Option]] = field(default_factory=dict)
    queue: deque[int | Border] = field(default_factory=deque)
    steps: list[int] = field(default_factory=lambda: [0])

    limit: ClassVar[int] = STEPS
    loops: ClassVar[bool] = False
    """Whether values that loops carry may be charged."""
    unknown: ClassVar[str] = "computes what is not proportional to what it reads"
    """Why an operation without a rule is refused."""

    def branch(self) -> State:
        """A state of its own, with what is known so far."""
        own = {
            "charges": dict(self.charges),
            "ties": list(self.ties),
            "cancelled": set(self.cancelled),
            "via": dict(self.via),
            "open": dict(self.open),
        }
        return replace(self, **own, queue=deque())

    def put(self, node: int, charge: Charge, via: tuple[int, int] | None = None) -> None:
        """Charge a value.

        Raises:
            Refused: it cannot carry that.
        """
        if charge.is_empty or self.wiring.absorbs(node):
            return
        if node in self.charges:
            charge, is_more = joined(self.charges[node], charge, self.ties)
            if not is_more:
                return
        else:
            self._check(node)
            self.via[node] = via
        self.charges[node] = charge
        self.queue.extend(self.wiring.equations(node))
        self.queue.extend(self.wiring.borders(node, self.loops))

    def _check(self, node: int) -> None:
        wiring, kind = self.wiring, self.wiring.attribute(node, "kind")
        if node in wiring.outputs:
            raise Refused("meets a result of the function")
        if kind in ("literal", "const") or wiring.number(node) is not None:
            raise Refused("meets a constant, which stays as it is")
        if wiring.is_carried(node) and not self.loops:
            raise Refused("meets a value that a loop carries")
        if kind == "input":
            leaf = wiring.leaves[wiring.attribute(node, "leaf")]
            if not leaf.is_param:
                raise Refused(f"meets the argument {leaf.path}, which is no parameter")

    def solve(self) -> State:
        """The state in which everything that has to carries its charge.

        Raises:
            Refused: there is none; with the reason of the way that led furthest.
        """
        self._spread()
        if not self.open:
            return self
        equation, options = next(iter(self.open.items()))
        failures = []
        for node, charge in sorted(options, key=lambda o: not self.wiring.is_parameter(o[0])):
            branch = self.branch()
            at = At(branch, equation)
            try:
                branch._step(equation, partial(_take, at, node, charge))
                return branch.solve()
            except Refused as reason:
                failures.append((len(branch.charges), reason))
        raise max(failures, key=lambda failure: failure[0])[1]

    def _spread(self) -> None:
        while self.queue:
            task = self.queue.popleft()
            self.steps[0] += 1
            if self.steps[0] > self.limit:
                raise Refused(f"more than {self.limit} equations would have to carry the factors")
            if isinstance(task, Border):
                self._cross(task)
            else:
                self._step(task, partial(self._apply, task))

    def _apply(self, equation: int) -> None:
        self.open.pop(equation, None)
        rule = self.rules.get(self.wiring.attribute(equation, "op"))
        if rule is None:
            raise Refused(self.unknown)
        rule(At(self, equation))

    def _step(self, equation: int, work: Callable[[], None]) -> None:
        """Do something at an equation; a refusal says where and how the charge got there."""
        try:
            work()
        except Refused as reason:
            if reason.is_located:
                raise
            raise self.located(equation, str(reason)) from None

    def located(self, equation: int, text: str) -> Refused:
        """The refusal at an equation."""
        op, source = (self.wiring.attribute(equation, name) for name in ("op", "source"))
        where = f"{op} at {source}" if source else op
        way = self._way(equation)
        reason = Refused(f"{where} {text}" + (f" (reached through {way})" if way else ""))
        reason.is_located = True
        return reason

    def _way(self, equation: int) -> str:
        """The operations from the first charged value to an equation, without mere layout."""
        near = (*self.wiring.operands(equation), *self.wiring.results(equation))
        node = next((n for n in near if n in self.charges), None)
        ops: list[str] = []
        while node is not None and (step := self.via.get(node)) is not None:
            above, node = step
            op = self.wiring.attribute(above, "op") if above != equation else None
            if op and op not in LAYOUT and ops[-1:] != [op]:
                ops.append(op)
        ops.reverse()
        return ", ".join(ops if len(ops) <= SHOWN else ["…", *ops[-SHOWN:]])

    def _cross(self, border: Border) -> None:
        """Hand a charge over the border of a nested program."""
        outside, inside = border.outside, border.inside
        for one, other, out in ((outside, inside, True), (inside, outside, False)):
            if one in self.charges:
                self._cross_from(border, one, other, out)

    def _cross_from(self, border: Border, one: int, other: int, inwards: bool) -> None:
        moved = self._across(border, one, other, inwards)
        above = self.via.get(one)
        try:
            self.put(other, moved, (above[0], one) if above else None)
        except Refused as reason:
            if above is None or reason.is_located:
                raise
            raise self.located(above[0], str(reason)) from None

    def _across(self, border: Border, one: int, other: int, inwards: bool) -> Charge:
        """The charge of a value on one side of a border, as it is on the other side."""
        charge = self.charges[one]
        ndim, other_ndim = self.wiring.ndim(one), self.wiring.ndim(other)
        lead, ids = charge.ids.ndim - ndim, charge.ids
        same_rank = ndim == other_ndim
        if same_rank and shape_of(self, one) != shape_of(self, other):
            raise Refused("a part of a value on each device would have to carry factors")
        if same_rank and border.eqn is not None and border.eqn.primitive.name == "scan":
            if inwards:  # every iteration reads all of it
                ids = np.expand_dims(ids, lead)
            else:
                ids = constant_along(ids, [lead - 1], self.ties).squeeze(lead - 1)
        return charge.moved(ids)


def _take(at: At, node: int, charge: Callable[[At], Charge]) -> None:
    at.set(node, charge(at))


def shape_of(state: State, node: int) -> tuple:
    """The shape of a value."""
    return tuple(state.wiring.attribute(node, "aval").shape)


@dataclass(frozen=True, eq=False)
class At:
    """An equation as its rule sees it: what its operands and results carry.

    Attributes:
        state: all charges.
        equation: its node.
    """

    state: State
    equation: int

    @property
    def eqn(self) -> JaxprEqn:
        """The equation itself."""
        return self.state.wiring.attribute(self.equation, "eqn")

    @property
    def operands(self) -> tuple[int, ...]:
        """Nodes of its operands."""
        return self.state.wiring.operands(self.equation)

    @property
    def results(self) -> tuple[int, ...]:
        """Nodes of its results."""
        return self.state.wiring.results(self.equation)

    def charge(self, node: int) -> Charge | None:
        """What a value carries; None for nothing."""
        return self.state.charges.get(node)

    def plain(self, node: int) -> Charge | None:
        """The same, for an operation that a constant cannot be taken through.

        Raises:
            Refused: the value has a constant added.
        """
        charge = self.charge(node)
        if charge is not None and charge.shift:
            raise Refused(f"reads a value of which {charge.shift:+g} is to be left as it is")
        return charge

    def lead(self, charge: Charge, node: int) -> int:
        """How many axes of iterations a value's charge has."""
        return charge.ids.ndim - self.state.wiring.ndim(node)

    def along(self, node: int, charge: Charge, dims: Mapping[int, int], other: int) -> Charge:
        """A value's charge for another: its axes become those that ``dims`` says.

        Along axes that ``dims`` does not have, the factors must not change.
        """
        lead, ndim = self.lead(charge, node), self.state.wiring.ndim(node)
        rest = [lead + d for d in range(ndim) if d not in dims]
        ids = constant_along(charge.ids, rest, self.state.ties)
        shape = [1] * self.state.wiring.ndim(other)
        for d, target in dims.items():
            shape[target] = ids.shape[lead + d]
        order = [lead + d for d in sorted(dims, key=lambda d: dims[d])]
        moved = ids.transpose(*range(lead), *order, *rest)
        return charge.moved(moved.reshape(*ids.shape[:lead], *shape))

    def set(self, node: int, charge: Charge) -> None:
        """Charge an operand or a result."""
        near = (*self.operands, *self.results)
        source = next((n for n in near if n in self.state.charges and n != node), None)
        self.state.put(node, charge, None if source is None else (self.equation, source))

    def choose(self, options: Sequence[Option]) -> None:
        """One of these has to carry its charge; which, is seen when all else is known."""
        self.state.open[self.equation] = list(options)
