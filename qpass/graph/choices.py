"""Products that choose: their result decides, element by element, what later products work on.

The router of a mixture of experts is one: its result goes through a softmax or the like to `top_k`,
and what that picks decides which expert sees which row. Found by the dataflow, never by names. The
logits of a vocabulary are chosen from as well, but the token that comes of it is a result of the
program, or goes round a loop: no later product of the same step reads it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import networkx as nx

from qpass.graph.dataflow import Dataflow, Found, Key
from qpass.graph.derivatives import CONTRACTIONS
from qpass.graph.provenance import LAYOUT

CHOOSERS = frozenset({"approx_top_k", "argmax", "argmin", "sort", "top_k"})
ELEMENTWISE = frozenset(
    {
        *("abs", "add", "add_any", "clamp", "custom_jvp_call", "div", "erf", "exp", "exp2"),
        *("integer_pow", "log", "log1p", "logistic", "max", "min", "mul", "neg", "pow"),
        *("reduce_max", "reduce_precision", "reduce_sum", "rsqrt", "select_n", "sqrt", "square"),
        *("stop_gradient", "sub", "tanh", "optimization_barrier", "concatenate", "pad"),
        *LAYOUT,
    }
)
"""What a choice is still made of when it is seen through: also the sums of a softmax."""


def choosers(dataflow: Dataflow) -> Mapping[Key, str]:
    """For each product that chooses, by its key, the primitive that picks from its result."""
    choice = _Choices(dataflow)
    found = ((product, choice.of(product)) for product in dataflow.contractions)
    return {product.key: picked for product, picked in found if picked}


class _Choices:
    """Answers about one dataflow; each picking equation is looked at once."""

    def __init__(self, dataflow: Dataflow) -> None:
        self.graph = dataflow.graph
        nodes = self.graph.nodes
        self.by_key = {nodes[n]["key"]: n for n in nodes if nodes[n]["kind"] == "equation"}
        self.opaque = {found.key for found, _ in dataflow.opaque}
        self.known: dict[int, bool] = {}
        self.upstream = _above(self.graph, (n for n in nodes if self._op(n) in CHOOSERS))

    def of(self, product: Found) -> str:
        """The primitive that picks from the result of a product for a later one; "" for none."""
        start = self.by_key.get(product.key)
        if start is None or start not in self.upstream:
            return ""
        for node in _reached(self.graph, start, self._is_seen_through):
            if self._op(node) in CHOOSERS and self._matters(node):
                return self._op(node)
        return ""

    def _op(self, node: int) -> str:
        return self.graph.nodes[node].get("op", "")

    def _is_seen_through(self, node: int) -> bool:
        is_equation = self.graph.nodes[node]["kind"] == "equation"
        return not is_equation or self._op(node) in ELEMENTWISE

    def _matters(self, node: int) -> bool:
        """Whether a product, or what may hold some, depends on what was picked."""
        if node not in self.known:
            later = _reached(self.graph, node, lambda _: True)
            self.known[node] = any(map(self._multiplies, later))
        return self.known[node]

    def _multiplies(self, node: int) -> bool:
        is_opaque = self.graph.nodes[node].get("key") in self.opaque
        return self._op(node) in CONTRACTIONS or is_opaque


def _above(graph: nx.DiGraph, ends: Iterable[int]) -> set[int]:
    """Every node that one of ``ends`` depends on, through loops too; in one walk."""
    stack = list(ends)
    seen = set(stack)
    while stack:
        fresh = [n for n in graph.pred[stack.pop()] if n not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return seen


def _reached(graph: nx.DiGraph, start: int, goes_on: Callable[[int], bool]) -> Iterator[int]:
    """Nodes after ``start``, past those that ``goes_on`` holds for, and not round a loop."""
    seen, stack = {start}, [start]
    while stack:
        node = stack.pop()
        if node != start:
            yield node
            if not goes_on(node):
                continue
        for _, after, feedback in graph.out_edges(node, data="feedback"):
            if not feedback and after not in seen:
                seen.add(after)
                stack.append(after)
