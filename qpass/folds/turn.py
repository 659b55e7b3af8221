"""Turns: which axis of a value is multiplied by an orthogonal matrix when a rotation is applied.

A turned value ``v`` becomes ``v @ Q`` along runs of ``n`` channels. All that reads and writes it
takes part, as with a fold; a sum over turned channels of two values stays what it is, for
``(a Q) . (b Q) = a . b``. So does the sum of squares in a norm. What acts on each channel by
itself, a norm's gain or an activation function, does not commute with a rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np

from qpass.folds.charge import Charge, Refused, constant_along
from qpass.folds.search import State, shape_of
from qpass.folds.wiring import Border, Wiring
from qpass.graph.provenance import LAYOUT

# Operations on each element by itself: even operands give an even result.
_BY_ELEMENT = frozenset(
    {"abs", "add", "convert_element_type", "copy", "div", "exp", "integer_pow", "log", "logistic"}
    | {"max", "min", "mul", "neg", "rsqrt", "select_n", "sqrt", "square", "stop_gradient", "sub"}
    | {"tanh"}
)


@dataclass(frozen=True, eq=False)
class Turn(Charge):
    """The place of each element in its run of channels.

    Attributes:
        ids: int32, from 0 to n - 1, or `qpass.folds.charge.NONE`; an axis along which nothing
            changes has size 1. There are no axes for iterations: all have one rotation.
        power: 1 of a turned value; 2 of what is only as yet the products of two, channel by
            channel: their sum over a run is what it was.
    """

    power: int = 1


@dataclass(eq=False)
class Turning(State):
    """What is turned so far (`State`); loops may carry it.

    Attributes:
        even: known answers of `is_even`.
    """

    even: dict[tuple, bool] = field(default_factory=dict)

    loops: ClassVar[bool] = True
    limit: ClassVar[int] = 200_000
    unknown: ClassVar[str] = "computes what does not turn with what it reads"

    def put(self, node: int, charge: Charge, via: tuple[int, int] | None = None) -> None:
        """Turn a value.

        Raises:
            Refused: it cannot be turned.
        """
        known = self.charges.get(node)
        if known is not None and power(known) != power(charge):
            raise Refused("reads products of channels as if they were channels")
        super().put(node, charge, via)

    def _step(self, equation: int, work: Callable[[], None]) -> None:
        super()._step(equation, partial(self._untied, work))

    def _untied(self, work: Callable[[], None]) -> None:
        work()
        if self.ties:
            raise Refused("takes one turned channel for another")

    def _across(self, border: Border, one: int, other: int, inwards: bool) -> Charge:
        charge = self.charges[one]
        more = self.wiring.ndim(other) - self.wiring.ndim(one)
        if more == 0 and shape_of(self, one) != shape_of(self, other):
            raise Refused("a part of a value on each device would have to be turned")
        if more > 0:  # out of a scan that stacks it
            return charge.moved(charge.ids[None])
        if more < 0:
            return charge.moved(constant_along(charge.ids, [0], self.ties).squeeze(0))
        return charge

    def is_even(self, node: int, dims: Collection[int]) -> bool:
        """Whether a value is the same along these of its axes, as far as the program shows."""
        sizes = shape_of(self, node)
        dims = tuple(sorted(d for d in dims if sizes and sizes[d] > 1))
        if (node, dims) not in self.even:
            self.even[node, dims] = not dims or self._is_even(node, dims)
        return self.even[node, dims]

    def _is_even(self, node: int, dims: tuple[int, ...]) -> bool:
        wiring = self.wiring
        if wiring.number(node) is not None:
            return True
        above = wiring.above(node)
        if above is None or node in self.charges:
            return False
        if wiring.attribute(above, "kind") != "equation":
            more = wiring.ndim(above) - wiring.ndim(node)
            return not wiring.is_carried(node) and self.is_even(above, [d + more for d in dims])
        operands, op = wiring.operands(above), wiring.attribute(above, "op")
        if op == "broadcast_in_dim":
            places = wiring.attribute(above, "eqn").params["broadcast_dimensions"]
            return self.is_even(operands[0], [d for d, to in enumerate(places) if to in dims])
        shape = shape_of(self, node)
        return op in _BY_ELEMENT and all(
            shape_of(self, n) == () or (shape_of(self, n) == shape and self.is_even(n, dims))
            for n in operands
        )

    def gain_of(self, node: int, dims: Collection[int]) -> int | None:
        """The parameter that a factor is, times what is the same along these axes; None for none.

        ``x * (rsqrt(...) * gain)`` is a norm as well.
        """
        wiring, above = self.wiring, self.wiring.above(node)
        op = None if above is None else wiring.attribute(above, "op")
        if above is None or op != "mul":
            if op is None and above is not None and wiring.ndim(above) == wiring.ndim(node):
                return self.gain_of(above, dims)  # the same value outside
            return parameter_of(wiring, node)
        varying = [n for n in wiring.operands(above) if not self.is_even(n, dims)]
        return self.gain_of(varying[0], dims) if len(varying) == 1 else None


def power(charge: Charge) -> int:
    """Of a turn its power."""
    return charge.power if isinstance(charge, Turn) else 1


def turned_dims(charge: Charge) -> frozenset[int]:
    """The axes along which a value is turned."""
    return frozenset(d for d, n in enumerate(charge.ids.shape) if n > 1)


def runs(ids: np.ndarray, n: int) -> np.ndarray:
    """Where the runs of n channels lie in the turned axes, flattened: ``int[runs, n]``.

    Raises:
        Refused: there are elements of a run that are not all side by side.
    """
    flat = ids.ravel()
    places = np.flatnonzero(flat == 0)[:, None] + np.arange(n)
    is_whole = places.size and places.max() < flat.size
    if not is_whole or not np.array_equal(np.sort(places.ravel()), np.flatnonzero(flat >= 0)):
        raise Refused("takes apart channels that are turned together")
    if not np.array_equal(flat[places], np.broadcast_to(np.arange(n), places.shape)):
        raise Refused("takes turned channels in another order")
    return places


def parameter_of(wiring: Wiring, node: int) -> int | None:
    """The input that is the parameter a value is, but for layout and a number that is added."""
    source: int | None = node
    while source is not None and wiring.attribute(source, "kind") != "input":
        source = None if wiring.is_carried(source) else _source(wiring, source)
    leaf = None if source is None else wiring.attribute(source, "leaf")
    return leaf if leaf is not None and wiring.leaves[leaf].is_param else None


def _source(wiring: Wiring, node: int) -> int | None:
    above = wiring.above(node)
    if above is None or wiring.attribute(above, "kind") != "equation":
        return above
    operands, op = wiring.operands(above), wiring.attribute(above, "op")
    if op in ("add", "sub"):
        varying = [n for n in operands if wiring.number(n) is None]
        return varying[0] if len(varying) == 1 else None
    return operands[0] if op in LAYOUT else None
