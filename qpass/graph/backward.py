"""Backward products: which forward product each of them differentiates, and by which operand.

The transpose of ``y = dot(a, b)`` with respect to ``a`` is a product of the cotangent of ``y`` with
``b``, so a backward product shares one operand with its forward product: the same value of the
graph, seen through layout operations, call boundaries and the residuals that a scan stacks. JAX
also gives it the source line of the forward product, which decides between several; a derivative
rule written by hand has lines of its own.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import networkx as nx

from qpass.graph._jax import ShapedArray, source_line
from qpass.graph.dataflow import Dataflow, Found, Key
from qpass.graph.provenance import LAYOUT

RECOMPUTED = "rematted_computation"


@dataclass(frozen=True)
class Link:
    """A product that exists because of a forward one.

    Attributes:
        forward: key of the forward product.
        shared: operand of the forward product (0 or 1) that the backward product reads.
        cotangent: operand of the backward product that is the cotangent. Both are of no meaning
            for a forward product that a rematerialized backward pass runs again.
    """

    forward: Key
    shared: int = 0
    cotangent: int = 0


def is_recomputed(found: Found) -> bool:
    """Whether this is a forward product that a rematerialized backward pass runs again."""
    return found.place.derivative != "bwd" and RECOMPUTED in found.place.scopes


def is_backward(found: Found) -> bool:
    """Whether this product exists only to differentiate another one."""
    if found.place.derivative == "bwd":
        return True
    return "transpose" in found.place.transforms and not is_recomputed(found)


def link_backward(dataflow: Dataflow) -> dict[Key, Link]:
    """The forward product of every backward and every recomputed one, where it can be told."""
    linker = _Linker(_Roots(dataflow.graph))
    for found in dataflow.contractions:
        linker.add(found)
    return linker.links()


@dataclass(eq=False)
class _Roots:
    """For each value, the value that it is a copy or a re-arrangement of; each asked for once."""

    graph: nx.DiGraph
    known: dict[int, int] = field(default_factory=dict)

    def __call__(self, node: int) -> int:
        trail = []
        while node not in self.known:
            trail.append(node)
            above = self._above(node)
            if above is None:
                self.known[node] = node
            else:
                node = above
        root = self.known[node]
        self.known.update(dict.fromkeys(trail, root))
        return root

    def _above(self, node: int) -> int | None:
        """What this value is a copy of; None when it is computed here, or by a loop or a branch."""
        edges = list(self.graph.in_edges(node, data=True))
        if len(edges) != 1 or edges[0][2].get("feedback"):
            return None
        source = edges[0][0]
        if self.graph.nodes[source]["kind"] != "equation":
            return source
        if self.graph.nodes[source]["op"] not in LAYOUT:
            return None
        return next(n for n, _, edge in self.graph.in_edges(source, data=True) if edge["slot"] == 0)


@dataclass(eq=False)
class _Linker:
    """Forward products by the values that they read, and what waits to be linked to them."""

    roots: _Roots
    by_key: dict[Key, Found] = field(default_factory=dict)
    forwards: list[Found] = field(default_factory=list)
    recomputed: list[Found] = field(default_factory=list)
    backwards: list[Found] = field(default_factory=list)
    readers: dict[int, list[tuple[Found, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, found: Found) -> None:
        """Take in one product of the program, in program order."""
        self.by_key[found.key] = found
        if is_backward(found):
            self.backwards.append(found)
            return
        (self.recomputed if is_recomputed(found) else self.forwards).append(found)
        for slot, node in enumerate(found.nodes[:2]):
            self.readers[self.roots(node)].append((found, slot))

    def links(self) -> dict[Key, Link]:
        """See `link_backward`. What is certain first; the rest by its cotangent, then by order."""
        options = {found.key: self._options(found) for found in self.backwards}
        links = {key: found[0] for key, found in options.items() if len(found) == 1}
        by_cotangent = self._cotangents(links)
        for found in reversed(self.backwards):  # the backward pass runs the other way round
            if found.key not in links:
                link = self._choose(found, options[found.key], by_cotangent, set(links.values()))
                links |= {} if link is None else {found.key: link}
        again = self._recomputed_links()
        for key, link in links.items():
            links[key] = replace(link, forward=again.get(link.forward, link).forward)
        return again | links

    def _options(self, found: Found) -> list[Link]:
        """Forward products that share a value with ``found`` and have the sizes for it.

        Those of the same source line, if any; a derivative rule written by hand has its own lines.
        """
        shared, same_line = [], []
        for side, node in enumerate(found.nodes[:2]):
            for forward, slot in self.readers.get(self.roots(node), ()):
                if _fits(found, forward, slot, side):
                    shared.append(Link(forward.key, slot, 1 - side))
                    if source_line(found.eqn) == source_line(forward.eqn):
                        same_line.append(shared[-1])
        return list(dict.fromkeys(same_line or shared))

    def _cotangents(self, links: Mapping[Key, Link]) -> dict[int, tuple[Key, int]]:
        """For the cotangent of a linked product: what the *other* product that reads it shares."""
        return {
            self.roots(found.nodes[links[found.key].cotangent]): (
                links[found.key].forward,
                1 - links[found.key].shared,
            )
            for found in self.backwards
            if found.key in links
        }

    def _choose(
        self, found: Found, options: list[Link], cotangents: Mapping, taken: set[Link]
    ) -> Link | None:
        """The option that the cotangent points to; else the next that nothing is linked to.

        Without options, as where the other operand is computed again but not the product itself,
        the cotangent alone decides.
        """
        known = [cotangents.get(self.roots(node)) for node in found.nodes[:2]]
        if not options:
            pointed = [Link(link[0], link[1], side) for side, link in enumerate(known) if link]
            return next((link for link in pointed if self._is_of(found, link)), None)
        pointed = [o for o in options if (o.forward, o.shared) in known]
        return next((o for o in (*pointed, *options) if o not in taken), options[0])

    def _is_of(self, found: Found, link: Link) -> bool:
        return source_line(found.eqn) == source_line(self.by_key[link.forward].eqn)

    def _recomputed_links(self) -> dict[Key, Link]:
        """The n-th recomputed product of a line and module repeats its n-th forward product."""
        originals = defaultdict(list)
        for found in self.forwards:
            originals[_place(found)].append(found.key)
        links, met = {}, defaultdict(int)
        for found in self.recomputed:
            same = originals[_place(found)]
            if same:
                links[found.key] = Link(same[met[_place(found)] % len(same)])
                met[_place(found)] += 1
        return links


def _place(found: Found) -> tuple:
    scopes = tuple(name for name in found.place.scopes if name != RECOMPUTED)
    return source_line(found.eqn), scopes, found.eqn.primitive.name


def _fits(found: Found, forward: Found, slot: int, side: int) -> bool:
    """Whether ``found`` can be the transpose of ``forward`` that reads its operand ``slot``.

    Under vmap a gradient may have a batch dimension that the operand lacks.
    """
    cotangent, result = found.eqn.invars[1 - side].aval, found.eqn.outvars[0].aval
    wanted, other = forward.eqn.outvars[0].aval, forward.eqn.invars[1 - slot].aval
    return _sizes(cotangent) <= _sizes(wanted) and _sizes(other) <= _sizes(result)


def _sizes(aval: ShapedArray) -> Counter:
    """Sizes without order, since a transposed product permutes them, and without ones."""
    return Counter(str(d) for d in aval.shape if str(d) != "1")
