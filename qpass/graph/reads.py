"""What each value of a program is computed from, in as many names as a sentence can hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

# Bounded, so that the whole is linear: a late value of a large model depends on thousands.
LIMIT = 4


@dataclass(frozen=True)
class Reads:
    """What a value depends on.

    Attributes:
        params: the first parameters among them, by index of the input; at most `LIMIT`.
        more: whether there are further parameters.
        data: whether it depends on an input that is no parameter, or on a cotangent or tangent.
    """

    params: tuple[int, ...] = ()
    more: bool = False
    data: bool = False

    @property
    def only_params(self) -> bool:
        """Whether it is computed from parameters, and from nothing that changes between calls."""
        return bool(self.params) and not self.data


NOTHING = Reads()
DATA = Reads(data=True)


def reads(graph: nx.DiGraph, is_param: Sequence[bool]) -> list[Reads]:
    """What every node of a dataflow graph depends on, through loops too; linear in its size.

    Args:
        graph: of a `Dataflow`.
        is_param: for each input of the program, whether it is a parameter.
    """
    found = [NOTHING] * graph.number_of_nodes()
    above = graph.pred
    for group in _upstream_first(graph):
        parts = [found[p] for n in group for p in above[n]]
        together = _join(parts) if parts else _given(graph.nodes[group[0]], is_param)
        for n in group:
            found[n] = together
    return found


def _upstream_first(graph: nx.DiGraph) -> Iterable[Sequence[int]]:
    """Nodes in groups that depend on each other; without loops each is a group of its own."""
    if not any(feedback for *_, feedback in graph.edges(data="feedback")):
        return ((node,) for node in range(graph.number_of_nodes()))  # numbered in program order
    return [tuple(g) for g in reversed(list(nx.strongly_connected_components(graph)))]


def _given(attributes: Mapping[str, Any], is_param: Sequence[bool]) -> Reads:
    """What a node without anything above it stands for."""
    if attributes["kind"] == "input":
        leaf = attributes["leaf"]
        return Reads((leaf,)) if is_param[leaf] else DATA
    # A value that nothing computes is what a derivative rule is given.
    return DATA if attributes["kind"] == "value" else NOTHING


def _join(parts: Sequence[Reads]) -> Reads:
    first = parts[0]
    if all(part is first for part in parts):
        return first
    params = sorted(set().union(*(part.params for part in parts)))
    more = len(params) > LIMIT or any(part.more for part in parts)
    joined = Reads(tuple(params[:LIMIT]), more, any(part.data for part in parts))
    return next((part for part in parts if part == joined), joined)
