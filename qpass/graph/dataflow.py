"""The dataflow of a program as a networkx graph, over all nested jaxprs, call boundaries inlined.

Nodes are integers. A value node has ``kind`` (``input``, ``const``, ``literal``, ``value``) and
``aval``; an equation node has ``kind="equation"``, ``op``, ``key``, ``source`` and ``eqn``. Edges
from a value to an equation carry the operand ``slot``. Edges between values cross call boundaries:
those into a nested program carry the ``eqn`` that runs it, those that close a loop carry
``feedback=True``, those to what derivative rules read, which run beside the program,
``rule=True``. A literal has its ``number``. Every edge but those of loops leads from a lower number
to a higher one.

The graph is derived from the jaxpr, for queries; it is never the storage.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from qpass.graph._jax import JaxprEqn
from qpass.graph.derivatives import JvpProgram, VjpPrograms
from qpass.graph.provenance import Flow, Origin

Path = tuple[tuple[int, str], ...]
Key = tuple[Path, int]

# The scope of quantized products that are made of JAX's own, so that nobody quantizes them again.
QUANTIZED_SCOPE = "qpass.quantized"


@dataclass(frozen=True)
class Place:
    """Where a jaxpr runs: the call sites above it.

    Attributes:
        path: ``(equation index, body key)`` of every enclosing equation, outermost first.
            One jaxpr object may be shared by several call sites; the path tells them apart.
        scopes: module names of the call sites.
        transforms: JAX transformations named in the call sites (``jvp``, ``transpose``).
        repeats: how often it runs, where known.
        derivative: ``fwd``, ``bwd`` or ``jvp`` inside a user-defined derivative rule.
        source: the user's source line, of the innermost call site that has one.
    """

    path: Path = ()
    scopes: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    repeats: int = 1
    derivative: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Found:
    """An equation of interest with what flows into it.

    Attributes:
        eqn: the equation.
        key: its call path and index.
        place: where its jaxpr runs, with the equation's own scopes added.
        flows: provenance of its operands.
        nodes: graph nodes of its operands.
        tangent: whether an operand depends on a tangent of a ``custom_jvp`` rule.
    """

    eqn: JaxprEqn
    key: Key
    place: Place
    flows: tuple[Flow, ...]
    nodes: tuple[int, ...]
    tangent: bool


@dataclass(frozen=True, eq=False)
class Use:
    """A read of an input leaf by something other than a layout operation.

    Attributes:
        op: what reads it: a primitive's name, or words.
        source: the user's source line.
        origin: how the leaf got there.
        key: call path and index of the reading equation; None where no equation reads it.
        eqn: the reading equation, likewise.
    """

    op: str
    source: str
    origin: Origin
    key: Key | None = None
    eqn: JaxprEqn | None = None


@dataclass(frozen=True, eq=False)
class Dataflow:
    """What a walk over a program finds.

    Attributes:
        graph: the networkx graph (module docstring).
        contractions: every contraction, in program order.
        opaque: equations with a sub-program that is not looked into, and why.
        uses: for each input leaf (or ``-1 - k`` for constant k), who reads it.
        derivatives: traced derivative rules by the key of their equation.
        untraceable: keys of derivative rules that could not be traced, with the error's text.
        outputs: graph nodes of the program's results.
        flows: provenance of every node, by its number.
        lookups: every gather from an input leaf, or from a re-arrangement of one, in program order.
    """

    graph: nx.DiGraph
    contractions: tuple[Found, ...]
    opaque: tuple[tuple[Found, str], ...]
    uses: Mapping[int, tuple[Use, ...]]
    derivatives: Mapping[Key, VjpPrograms | JvpProgram]
    untraceable: Mapping[Key, str]
    outputs: tuple[int, ...]
    flows: tuple[Flow, ...] = ()
    lookups: tuple[Found, ...] = ()

    def sources(self, node: int) -> list[int]:
        """Input leaves that ``node`` depends on, by index."""
        above = nx.ancestors(self.graph, node) | {node}
        nodes = self.graph.nodes
        return sorted(nodes[n]["leaf"] for n in above if nodes[n]["kind"] == "input")

    def readers(self, node: int) -> list[int]:
        """Equation nodes that read the value ``node`` directly."""
        nodes = self.graph.nodes
        return [n for n in self.graph.successors(node) if nodes[n]["kind"] == "equation"]

    def depends_only_on(self, node: int, leaves: set[int]) -> bool:
        """Whether ``node`` is computed from these input leaves (and constants) alone."""
        return set(self.sources(node)) <= leaves
