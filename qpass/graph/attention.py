"""Products of attention, told by the softmax between them.

``softmax(q @ k) @ v``: the result of the first product is exponentiated, element by element
through scales, masks and layouts; the exponentials are summed over positions, and a second product
contracts those same positions. Whoever wrote it, in whatever layout, at once or block by block. The
operand of the first product that has the positions holds the keys, that of the second which meets
the exponentials the values.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import networkx as nx

from qpass.graph._jax import JaxprEqn
from qpass.graph.choices import ELEMENTWISE
from qpass.graph.dataflow import Dataflow, Found, Key
from qpass.graph.derivatives import CONTRACTIONS
from qpass.graph.dimensions import dimensions
from qpass.graph.provenance import LAYOUT, Axes

EXPONENTIALS = frozenset({"exp", "exp2"})
# A maximum or a sum ends the walk: the corrections of a running softmax are made of those.
POINTWISE = ELEMENTWISE - {"reduce_max", "reduce_sum"}
NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Part:
    """What a product is in attention.

    Attributes:
        role: ``qk`` or ``pv``.
        kv: the operand, 0 or 1, that holds keys or values.
    """

    role: str
    kv: int


@dataclass(frozen=True, eq=False)
class _Value:
    """A value on the way from a product's result.

    Attributes:
        node: its node in the graph.
        axes: for each of its dimensions, those of the product's result that it is made of.
        is_exp: whether it comes after an exponential.
    """

    node: int
    axes: Axes
    is_exp: bool = False


@dataclass(frozen=True, eq=False)
class _Read:
    """A value on the way, with an equation that reads it."""

    value: _Value
    node: int
    eqn: JaxprEqn
    slot: int

    def axes(self, dims: Collection[int]) -> frozenset[int]:
        """Those of the product's result that these dimensions are made of."""
        return NONE.union(*(self.value.axes[d] for d in dims))


def attention(dataflow: Dataflow, products: Mapping[Key, Found]) -> Mapping[Key, Part]:
    """What those of ``products``, of two activations each, are that attention is made of."""
    graph = dataflow.graph
    nodes = graph.nodes
    if not any(nodes[n].get("op") in EXPONENTIALS for n in nodes):
        return {}
    by_key = {nodes[n]["key"]: n for n in nodes if nodes[n]["kind"] == "equation"}
    parts: dict[Key, Part] = {}
    for key, found in products.items():
        for other, part in _pair(graph, by_key[key], found, products).items():
            parts.setdefault(other, part)
    return parts


def _pair(
    graph: nx.DiGraph, start: int, found: Found, products: Mapping[Key, Found]
) -> dict[Key, Part]:
    """The parts of a product with keys and of those with values that follow; {} for any other."""
    reads = [read for read in _reads(graph, start) if read.value.is_exp]
    sums = [read.axes(read.eqn.params["axes"]) for read in reads if _op(read) == "reduce_sum"]
    positions = [axes for axes in sums if axes and _side(found.eqn, axes) is not None]
    parts: dict[Key, Part] = {}
    for read in reads:
        key = graph.nodes[read.node]["key"]
        if key not in products or key == found.key:
            continue
        contracted = read.axes(dimensions(read.eqn)[0][read.slot])
        for axes in positions:
            if axes <= contracted:
                parts[found.key] = Part("qk", _side(found.eqn, axes) or 0)
                parts[key] = Part("pv", 1 - read.slot)
    return parts


def _side(eqn: JaxprEqn, axes: frozenset[int]) -> int | None:
    """The operand that alone has these axes of a product's result; None where neither has."""
    contract, batch = dimensions(eqn)
    sizes = [v.aval.ndim - len(contract[k]) - len(batch[k]) for k, v in enumerate(eqn.invars)]
    start = len(batch[0])
    own = [range(start, start + sizes[0]), range(start + sizes[0], start + sum(sizes))]
    return next((side for side in (0, 1) if axes <= set(own[side])), None)


def _op(read: _Read) -> str:
    return read.eqn.primitive.name


def _reads(graph: nx.DiGraph, start: int) -> Iterator[_Read]:
    """Every read of what a product's result is, element by element, seen from there."""
    (result,) = graph.successors(start)
    whole = tuple(frozenset([d]) for d in range(graph.nodes[result]["aval"].ndim))
    stack, seen = [_Value(result, whole)], {(result, False)}
    while stack:
        value = stack.pop()
        for _, after, edge in graph.out_edges(value.node, data=True):
            if graph.nodes[after]["kind"] != "equation":
                found = _across(graph, value, after, edge)
            else:
                read = _Read(value, after, graph.nodes[after]["eqn"], edge["slot"])
                yield read
                found = _after(graph, read)
            fresh = [v for v in found if (v.node, v.is_exp) not in seen]
            seen.update((v.node, v.is_exp) for v in fresh)
            stack.extend(fresh)


def _after(graph: nx.DiGraph, read: _Read) -> list[_Value]:
    """What an equation makes of a value; nothing where it is not element by element."""
    axes, op = _moved(read), _op(read)
    if axes is None or op in CONTRACTIONS:
        return []
    is_exp = read.value.is_exp or op in EXPONENTIALS
    return [_Value(node, axes, is_exp) for node in graph.successors(read.node)]


def _moved(read: _Read) -> Axes | None:
    """The axes of the result; None where they cannot be told."""
    rule = LAYOUT.get(_op(read))
    if rule is not None:
        return rule(read.eqn, read.value.axes) if read.slot == 0 else None
    is_same = read.eqn.outvars[0].aval.ndim == len(read.value.axes)
    return read.value.axes if _op(read) in POINTWISE and is_same else None


def _across(graph: nx.DiGraph, value: _Value, after: int, edge: Mapping) -> list[_Value]:
    """The same value inside or outside of a nested program; not round a loop.

    A scan takes slices of what it reads and stacks what it returns.
    """
    if edge.get("feedback"):
        return []
    more = graph.nodes[after]["aval"].ndim - len(value.axes)
    by_rank = {0: value.axes, -1: value.axes[1:], 1: (NONE, *value.axes)}
    return [_Value(after, by_rank[more], value.is_exp)] if more in by_rank else []
