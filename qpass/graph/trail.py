"""The way of a value from the leaf that it is, or from the operation that made it, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from qpass.graph._jax import JaxprEqn, source_line
from qpass.graph.dataflow import Dataflow
from qpass.graph.program import Program
from qpass.graph.provenance import ELEMENT_FOR_ELEMENT, Flow, Lost, Origin
from qpass.graph.reads import Reads, reads

SHOWN = 6  # operands of one operation that a sentence names


@dataclass(frozen=True)
class Step:
    """One operation on the way.

    Attributes:
        op: its name; ``scan slice`` for what a scan takes of its input.
        detail: what it does, where the name does not say it: ``(1, 0)``, ``to bfloat16``.
        type: of the value after it, as ``f32[8,16]``.
        source: the user's source line.
    """

    op: str
    detail: str
    type: str
    source: str


@dataclass(frozen=True)
class Trail:
    """How an operand came to be.

    Attributes:
        start: the leaf's path, or what made the value that no leaf is.
        type: of the value at the start.
        source: the user's source line of what made it; empty for a leaf.
        steps: layout operations from there to the operand.
        leaf: whether it starts at a parameter.
    """

    start: str
    type: str
    source: str
    steps: tuple[Step, ...]
    leaf: bool


@dataclass(frozen=True, eq=False)
class Trails:
    """Answers about the values of one program; what they depend on is found once, when asked."""

    program: Program
    dataflow: Dataflow

    @cached_property
    def reads(self) -> list[Reads]:
        """What every node depends on."""
        return reads(self.dataflow.graph, [leaf.is_param for leaf in self.program.leaves])

    def describe(self, node: int) -> str:
        """Where a value comes from, as half a sentence."""
        flow = self.dataflow.flows[node]
        if isinstance(flow, Origin):
            return self._leaf(flow)
        return self._broken(flow, node)

    def derived(self, node: int) -> bool:
        """Whether a value is computed from parameters alone, and is none."""
        lost = isinstance(self.dataflow.flows[node], Lost)
        return lost and self.reads[node].only_params

    def trail(self, node: int) -> Trail:
        """The whole way of a value."""
        steps = []
        while (above := self._above(node)) is not None:
            node, step = above
            if step is not None:
                steps.append(step)
        flow, aval = self.dataflow.flows[node], self.dataflow.graph.nodes[node]["aval"]
        return Trail(
            start=self.describe(node),
            type=_type(aval),
            source="" if isinstance(flow, Origin) else flow.source,
            steps=tuple(reversed(steps)),
            leaf=isinstance(flow, Origin) and flow.leaf >= 0 and self._is_param(flow.leaf),
        )

    def _is_param(self, leaf: int) -> bool:
        return self.program.leaves[leaf].is_param

    def _leaf(self, flow: Origin) -> str:
        if flow.leaf < 0:
            return "a constant that the function closes over"
        leaf = self.program.leaves[flow.leaf]
        return leaf.path if leaf.is_param else f"{leaf.path}, an input that is no parameter"

    def _broken(self, flow: Lost, node: int) -> str:
        if flow.op in GIVEN:
            return GIVEN[flow.op]
        groups = self._operands(flow.node) if flow.node is not None else [self._summary(node)]
        names = " and ".join(dict.fromkeys(filter(None, groups))) or "constants"
        return f"{flow} computes a new value from {names}"

    def _operands(self, equation: int) -> list[str]:
        """What each operand of an equation is: a leaf, or what it is computed from."""
        nodes = self.dataflow.graph.predecessors(equation)
        names = [self._operand(node) for node in islice(nodes, SHOWN + 1)]
        return [*names[:SHOWN], "…"] if len(names) > SHOWN else names

    def _operand(self, node: int) -> str:
        flow = self.dataflow.flows[node]
        if isinstance(flow, Origin) and flow.leaf >= 0:
            return self.program.leaves[flow.leaf].path
        return self._summary(node)

    def _summary(self, node: int) -> str:
        """The parameters that a value depends on; where it depends on data, that is all we say."""
        found = self.reads[node]
        if found.data:
            return "an activation"
        paths = [self.program.leaves[k].path for k in found.params]
        return ", ".join([*paths, "…"] if found.more else paths)

    def _above(self, node: int) -> tuple[int, Step | None] | None:
        """The value that this one is a re-arrangement of, and by what; None where it begins."""
        graph, flows = self.dataflow.graph, self.dataflow.flows
        edges = [(p, e) for p, _, e in graph.in_edges(node, data=True) if not e.get("feedback")]
        if len(edges) != 1:
            return None
        source, edge = edges[0]
        if graph.nodes[source]["kind"] == "equation":
            eqn = graph.nodes[source]["eqn"]
            above = self._rearranged(source, eqn, node)
        else:
            eqn, above = edge.get("eqn"), source
        if above is None or not _continues(flows[above], flows[node]):
            return None
        return above, self._step(eqn, above, node, None if source == above else source)

    def _rearranged(self, equation: int, eqn: JaxprEqn, result: int) -> int | None:
        graph = self.dataflow.graph
        slot = FOLLOWED.get(eqn.primitive.name, 0)
        if eqn.primitive.name in ELEMENT_FOR_ELEMENT:
            slot = list(graph.successors(equation)).index(result)
        edges = graph.in_edges(equation, data="slot")
        return next((p for p, _, at in edges if at == slot), None)

    def _step(
        self, eqn: JaxprEqn | None, above: int, node: int, equation: int | None
    ) -> Step | None:
        """The step between two values; None where it only crosses the border of a program."""
        nodes = self.dataflow.graph.nodes
        before, after = nodes[above]["aval"], nodes[node]["aval"]
        if equation is None:
            sliced = eqn is not None and before.shape != after.shape
            return Step("scan slice", "", _type(after), source_line(eqn)) if sliced else None
        assert eqn is not None  # of every equation node
        return Step(eqn.primitive.name, _detail(eqn), _type(after), nodes[equation]["source"])


# The operand that a layout operation re-arranges, where it is not the first.
FOLLOWED = {"select_n": 1}
GIVEN = {
    "cotangent": "a cotangent of a custom_vjp rule",
    "tangent": "a tangent of a custom_jvp rule",
    "literal": "a number in the program",
    "closed-over constant": "a constant that an inner function closes over",
}


def _continues(above: Flow, flow: Flow) -> bool:
    """Whether a value is still the same leaf, or still what the same operation made."""
    return above is flow or (isinstance(above, Origin) and isinstance(flow, Origin))


def _type(aval: Any) -> str:
    return aval.str_short(short_dtypes=True)


def _detail(eqn: JaxprEqn) -> str:
    """The parameters of a layout operation that a reader wants to see."""
    return next(_details(eqn), "")


def _details(eqn: JaxprEqn) -> Iterator[str]:
    p = eqn.params
    if "permutation" in p:
        yield _tuple(p["permutation"])
    elif "new_dtype" in p:
        yield f"to {p['new_dtype']}"
    elif "start_indices" in p:
        parts = zip(p["start_indices"], p["limit_indices"], strict=True)
        yield f"[{', '.join(f'{a}:{b}' for a, b in parts)}]"
    elif "dimensions" in p and p["dimensions"] is not None:
        yield _tuple(p["dimensions"])


def _tuple(values: Sequence[Any]) -> str:
    return f"({', '.join(map(str, values))})"
