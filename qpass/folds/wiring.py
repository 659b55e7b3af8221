"""A program's dataflow as a fold walks it: values, the equations around them, and borders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from qpass.graph._jax import JaxprEqn
from qpass.graph.dataflow import Dataflow
from qpass.graph.program import Leaf
from qpass.graph.provenance import Origin

_SEEN_THROUGH = ("broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze")


@dataclass(frozen=True)
class Border:
    """A value outside of a nested program and the same one inside.

    Attributes:
        outside: its node outside.
        inside: its node inside.
        eqn: the equation that runs the program, of a value that goes in; None for a result.
    """

    outside: int
    inside: int
    eqn: JaxprEqn | None


@dataclass(eq=False)
class Wiring:
    """Questions to the graph of a program. Derivative rules, which run beside it, are left out.

    Attributes:
        dataflow: the walked program.
        leaves: its inputs.
    """

    dataflow: Dataflow
    leaves: tuple[Leaf, ...]
    _numbers: dict[int, float | None] = field(default_factory=dict)

    @cached_property
    def outputs(self) -> frozenset[int]:
        """Nodes of the program's results."""
        return frozenset(self.dataflow.outputs)

    def attribute(self, node: int, name: str) -> Any:
        """An attribute of a node; None where it has none."""
        return self.dataflow.graph.nodes[node].get(name)

    def ndim(self, node: int) -> int:
        """How many axes a value has."""
        return self.attribute(node, "aval").ndim

    def operands(self, equation: int) -> tuple[int, ...]:
        """Nodes that an equation reads, by position."""
        eqn = self.attribute(equation, "eqn")
        edges = self.dataflow.graph.in_edges(equation, data="slot")
        by_slot = {slot: node for node, _, slot in edges}
        # The graph has one edge from a value to an equation that reads it twice.
        by_var = {id(eqn.invars[slot]): node for slot, node in by_slot.items()}
        return tuple(by_slot.get(k, by_var.get(id(v), -1)) for k, v in enumerate(eqn.invars))

    def results(self, equation: int) -> tuple[int, ...]:
        """Nodes of an equation's results, by position."""
        return tuple(sorted(self.dataflow.graph.successors(equation)))

    def above(self, node: int) -> int | None:
        """What a value comes from: the equation that makes it, or the same value outside.

        None for an input, and for one that comes from several places.
        """
        edges = self.dataflow.graph.in_edges(node, data=True)
        found = [above for above, _, edge in edges if not edge.get("feedback")]
        return found[0] if len(found) == 1 else None

    def equations(self, node: int) -> Iterator[int]:
        """The equations that read a value, then the one that makes it."""
        graph = self.dataflow.graph
        for near in (*graph.successors(node), *graph.predecessors(node)):
            if self.attribute(near, "kind") == "equation":
                yield near

    def borders(self, node: int, loops: bool = False) -> Iterator[Border]:
        """Where a value enters nested programs, leaves one, or comes from outside.

        With ``loops``, also from which iteration to the next one a loop carries it.
        """
        graph = self.dataflow.graph
        for near, edges in ((True, graph.out_edges), (False, graph.in_edges)):
            for above, below, edge in edges(node, data=True):
                other = below if near else above
                is_value = self.attribute(other, "kind") != "equation"
                is_open = loops or not edge.get("feedback")
                if is_value and is_open and not edge.get("rule"):
                    eqn = edge.get("eqn")
                    outside, inside = (below, above) if eqn is None else (above, below)
                    yield Border(outside, inside, eqn)

    def is_carried(self, node: int) -> bool:
        """Whether a loop hands the value on to its next iteration, or gets it from the last."""
        graph = self.dataflow.graph
        edges = (*graph.in_edges(node, data=True), *graph.out_edges(node, data=True))
        return any(edge.get("feedback") for *_, edge in edges)

    def is_parameter(self, node: int) -> bool:
        """Whether a value is a parameter, seen through layout operations."""
        flow = self.dataflow.flows[node]
        return isinstance(flow, Origin) and flow.leaf >= 0 and self.leaves[flow.leaf].is_param

    def number(self, node: int) -> float | None:
        """The number that all elements of a value are, where it is written in the program."""
        if node not in self._numbers:
            self._numbers[node] = self._number(node)
        return self._numbers[node]

    def absorbs(self, node: int) -> bool:
        """Whether a value is the same when it is multiplied: all zeros, or infinite."""
        number = self.number(node)
        return number is not None and (number == 0 or math.isinf(number))

    def _number(self, node: int) -> float | None:
        if self.attribute(node, "kind") == "literal":
            value = self.attribute(node, "number")
            return float(np.real(value)) if np.isrealobj(value) and np.ndim(value) == 0 else None
        above = list(self.dataflow.graph.predecessors(node))
        if len(above) != 1:
            return None
        if self.attribute(above[0], "kind") != "equation":
            return None if self.is_carried(node) else self.number(above[0])
        if self.attribute(above[0], "op") not in _SEEN_THROUGH:
            return None
        return self.number(self.operands(above[0])[0])
