"""The walk that finds a program's dataflow: once over every equation of every nested jaxpr."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx

from qpass.graph._jax import Jaxpr, JaxprEqn, Literal, name_stack, source_line
from qpass.graph.dataflow import QUANTIZED_SCOPE, Dataflow, Found, Key, Place, Use
from qpass.graph.derivatives import CONTRACTIONS, JvpProgram, VjpPrograms, derivative_programs
from qpass.graph.higher_order import Body, bodies
from qpass.graph.opaque import ALREADY, why_opaque
from qpass.graph.program import Program
from qpass.graph.provenance import Flow, Lost, Origin, continues, follow, leaf_origin, scan_slice
from qpass.graph.tangents import reached_inputs

# Derivative rules inside derivative rules: one that calls its own function would never end. Beyond,
# JAX differentiates the function itself.
ORDERS = 2


def analyse(program: Program) -> Dataflow:
    """Walk ``program`` and every nested jaxpr once; time linear in the number of equations."""
    walk = _Walk()
    inputs = [
        walk.value("input", var.aval, leaf_origin(k, var.aval.ndim), leaf=k)
        for k, var in enumerate(program.jaxpr.invars)
    ]
    outputs = walk.jaxpr(program.jaxpr, inputs, Place(), top=True)
    for node in outputs:
        walk.use(node, "output")
    uses = {leaf: tuple(found) for leaf, found in walk.uses.items()}
    return Dataflow(
        walk.graph,
        tuple(walk.contractions),
        tuple(walk.opaque),
        uses,
        walk.derivatives,
        walk.untraceable,
        tuple(outputs),
        tuple(walk.flow),
        tuple(walk.lookups),
    )


@dataclass(eq=False)
class _Walk:
    """State of one walk; values and equations are numbered in the order they are met."""

    graph: nx.DiGraph = field(default_factory=nx.DiGraph)
    flow: list[Flow] = field(default_factory=list)
    tangents: set[int] = field(default_factory=set)
    contractions: list[Found] = field(default_factory=list)
    opaque: list[tuple[Found, str]] = field(default_factory=list)
    lookups: list[Found] = field(default_factory=list)
    uses: dict[int, list[Use]] = field(default_factory=dict)
    derivatives: dict[Key, Any] = field(default_factory=dict)
    untraceable: dict[Key, str] = field(default_factory=dict)
    rules: dict[int, VjpPrograms | JvpProgram | str | None] = field(default_factory=dict)
    constants: int = 0
    in_derivative: int = 0

    def value(self, kind: str, aval: Any, flow: Flow, **attributes: Any) -> int:
        """Add a value node."""
        return self._add(kind, flow, aval=aval, **attributes)

    def _add(self, kind: str, flow: Flow, **attributes: Any) -> int:
        node = len(self.flow)
        self.flow.append(flow)
        self.graph.add_node(node, kind=kind, **attributes)
        return node

    def jaxpr(
        self, jaxpr: Jaxpr, inputs: Sequence[int], place: Place, top: bool = False
    ) -> list[int]:
        """Walk ``jaxpr`` with its inputs bound to nodes; the nodes of its results."""
        env = dict(zip(jaxpr.invars, inputs, strict=True))
        for var in jaxpr.constvars:
            env[var] = self._constant(var, top)
        for index, eqn in enumerate(jaxpr.eqns):
            operands = [self._read(env, atom) for atom in eqn.invars]
            results = self.equation(eqn, operands, place, index)
            env.update(zip(eqn.outvars, results, strict=True))
        return [self._read(env, atom) for atom in jaxpr.outvars]

    def _constant(self, var: Any, top: bool) -> int:
        flow = Lost("closed-over constant", because="of an inner function")
        if top:
            self.constants += 1
            flow = leaf_origin(-self.constants, var.aval.ndim)
        return self.value("const", var.aval, flow)

    def _read(self, env: dict, atom: Any) -> int:
        if isinstance(atom, Literal):
            return self.value("literal", atom.aval, Lost("literal"), number=atom.val)
        return env[atom]

    def equation(self, eqn: JaxprEqn, operands: list[int], place: Place, index: int) -> list[int]:
        """Add one equation; the nodes of its results."""
        key = (place.path, index)
        inner = bodies(eqn)
        if inner:
            return self._enter(eqn, inner, operands, place, key)
        results = self._first_order(eqn, operands, place, key)
        if not self.tangents.isdisjoint(operands):
            self.tangents.update(results)
        return results

    def _first_order(self, eqn: JaxprEqn, operands: list[int], place: Place, key: Key) -> list[int]:
        source = source_line(eqn) or place.source
        node = self._add(
            "equation",
            Lost(eqn.primitive.name),
            op=eqn.primitive.name,
            key=key,
            source=source,
            eqn=eqn,
        )
        flows = [self.flow[n] for n in operands]
        for slot, operand in enumerate(operands):
            self.graph.add_edge(operand, node, slot=slot)
            if not continues(eqn, slot, flows):
                self.use(operand, eqn.primitive.name, source, key, eqn)
        if eqn.primitive.name in CONTRACTIONS:
            self._contraction(self._found(eqn, operands, place, key))
        else:
            self._note_opaque(eqn, operands, place, key)
            self._note_lookup(eqn, operands, place, key)
        results = follow(eqn, flows, source, node)
        return self._results(eqn, results, [[node]] * len(results))

    def _results(self, eqn: JaxprEqn, flows: list[Flow], sources: list[list[int]]) -> list[int]:
        results = []
        for var, flow, above in zip(eqn.outvars, flows, sources, strict=True):
            results.append(self.value("value", var.aval, flow))
            self.graph.add_edges_from((node, results[-1]) for node in above)
        return results

    def _found(self, eqn: JaxprEqn, operands: list[int], place: Place, key: Key) -> Found:
        flows = tuple(self.flow[n] for n in operands)
        tangent = not self.tangents.isdisjoint(operands)
        return Found(eqn, key, _inside(place, eqn), flows, tuple(operands), tangent)

    def _contraction(self, found: Found) -> None:
        if QUANTIZED_SCOPE in found.place.scopes:
            self.opaque.append((found, ALREADY))
        else:
            self.contractions.append(found)

    def _note_opaque(self, eqn: JaxprEqn, operands: list[int], place: Place, key: Key) -> None:
        reason = why_opaque(eqn)
        if reason is not None:
            self.opaque.append((self._found(eqn, operands, place, key), reason))

    def _note_lookup(self, eqn: JaxprEqn, operands: list[int], place: Place, key: Key) -> None:
        """Like `use`, not in derivative rules."""
        is_lookup = eqn.primitive.name == "gather" and isinstance(self.flow[operands[0]], Origin)
        if is_lookup and not self.in_derivative:
            self.lookups.append(self._found(eqn, operands, place, key))

    def use(
        self,
        node: int,
        op: str,
        source: str = "",
        key: Key | None = None,
        eqn: JaxprEqn | None = None,
    ) -> None:
        """Record that something other than a layout operation reads ``node``.

        Derivative rules do not count: they run beside the program, on dequantized weights.
        """
        flow = self.flow[node]
        if isinstance(flow, Origin) and not self.in_derivative:
            self.uses.setdefault(flow.leaf, []).append(Use(op, source, flow, key, eqn))

    def _enter(
        self, eqn: JaxprEqn, inner: Sequence[Body], operands: list[int], place: Place, key: Key
    ) -> list[int]:
        here = _inside(place, eqn)
        lost = Lost(eqn.primitive.name, here.source, "result of a nested program")
        flows: list[Flow] = [lost] * len(eqn.outvars)
        sources: list[list[int]] = [[] for _ in eqn.outvars]
        for body in inner:
            ports = range(len(body.operands))
            inputs = [self._body_input(eqn, body, p, operands, key) for p in ports]
            self._mark_tangents(body, inputs, operands)
            path = (*place.path, (key[1], body.key))
            nested = replace(here, path=path, repeats=here.repeats * body.repeats)
            outputs = self.jaxpr(body.jaxpr, inputs, nested)
            self._leave(body, inputs, outputs, flows)
            if body.key != "cond":
                for above, output in zip(sources, outputs, strict=True):
                    above.append(output)
        self._derivatives(eqn, operands, here, key)
        results = self._results(eqn, flows, sources)
        self.tangents.update(
            result
            for result, above in zip(results, sources, strict=True)
            if not self.tangents.isdisjoint(above)
        )
        return results

    def _mark_tangents(self, body: Body, inputs: list[int], operands: list[int]) -> None:
        marked = [operands[position] in self.tangents for position in body.operands]
        reached = zip(inputs, reached_inputs(body, marked), strict=True)
        self.tangents.update(node for node, is_reached in reached if is_reached)

    def _body_input(
        self, eqn: JaxprEqn, body: Body, position: int, operands: list[int], key: Key
    ) -> int:
        operand = operands[body.operands[position]]
        flow = self.flow[operand]
        if isinstance(flow, Origin) and position in body.sliced:
            flow = scan_slice(flow, key)
        elif position in body.updated:
            self.use(operand, eqn.primitive.name, source_line(eqn))
            flow = Lost(eqn.primitive.name, source_line(eqn), "carried and updated by the loop")
        node = self.value("value", body.jaxpr.invars[position].aval, flow)
        self.graph.add_edge(operand, node, eqn=eqn)
        return node

    def _leave(self, body: Body, inputs: list[int], outputs: list[int], flows: list[Flow]) -> None:
        for output, position in body.feedback:
            self.graph.add_edge(outputs[output], inputs[position], feedback=True)
        for result, output in body.results.items():
            flows[result] = self.flow[outputs[output]]
        if body.key == "primal":  # a function with its own derivative: what it did inside says more
            inner = (self.flow[output] for output in outputs)
            flows[:] = [i if isinstance(i, Lost) else f for i, f in zip(inner, flows, strict=True)]
        kept = set(body.results.values())
        for output, node in enumerate(outputs):
            if output not in kept:
                self.use(node, "result of a nested program")

    def _derivatives(self, eqn: JaxprEqn, operands: list[int], here: Place, key: Key) -> None:
        if self.in_derivative >= ORDERS:
            return
        programs = self._rules(eqn)
        if isinstance(programs, str):
            where = f" ({eqn.primitive.name} at {here.source})" if here.source else ""
            self.untraceable[key] = f"{programs}{where}"
            return
        self.in_derivative += 1
        if isinstance(programs, VjpPrograms):
            self._vjp(programs, operands, here, key)
        elif isinstance(programs, JvpProgram):
            self._jvp(programs, operands, here, key)
        self.in_derivative -= 1
        if programs is not None:
            self.derivatives[key] = programs

    def _rules(self, eqn: JaxprEqn) -> VjpPrograms | JvpProgram | str | None:
        """The derivative rules of ``eqn``, traced once; the error's text where that fails."""
        if id(eqn) not in self.rules:
            try:
                self.rules[id(eqn)] = derivative_programs(eqn)
            except Exception as err:  # the user's rule itself fails, and would when differentiated
                self.rules[id(eqn)] = f"{type(err).__name__}: {err}".split("\n")[0]
        return self.rules[id(eqn)]

    def _vjp(self, programs: VjpPrograms, operands: list[int], here: Place, key: Key) -> None:
        fwd = _rule_place(here, key, "fwd")
        results = self.jaxpr(programs.fwd, self._copies(programs.fwd, operands), fwd)
        n_residuals = len(programs.bwd.invars) - len(programs.floating_results)
        residuals = results[len(results) - n_residuals :]
        cotangents = [
            self.value("value", var.aval, Lost("cotangent"))
            for var in programs.bwd.invars[len(residuals) :]
        ]
        inputs = [*self._copies(programs.bwd, residuals), *cotangents]
        self.jaxpr(programs.bwd, inputs, _rule_place(here, key, "bwd"))

    def _jvp(self, programs: JvpProgram, operands: list[int], here: Place, key: Key) -> None:
        tangents = [
            self.value("value", var.aval, Lost("tangent"))
            for var in programs.jvp.invars[len(operands) :]
        ]
        self.tangents.update(tangents)
        inputs = [*self._copies(programs.jvp, operands), *tangents]
        self.jaxpr(programs.jvp, inputs, _rule_place(here, key, "jvp"))

    def _copies(self, jaxpr: Jaxpr, operands: list[int]) -> list[int]:
        nodes = []
        for var, operand in zip(jaxpr.invars, operands, strict=False):
            nodes.append(self.value("value", var.aval, self.flow[operand]))
            self.graph.add_edge(operand, nodes[-1], rule=True)
        return nodes


def _inside(place: Place, eqn: JaxprEqn) -> Place:
    scopes, transforms = name_stack(eqn)
    return replace(
        place,
        scopes=(*place.scopes, *scopes),
        transforms=(*place.transforms, *transforms),
        source=source_line(eqn) or place.source,
    )


def _rule_place(here: Place, key: Key, rule: str) -> Place:
    return replace(here, path=(*key[0], (key[1], rule)), derivative=rule)
