"""States: inputs that a program updates in part and gives back, such as the caches of attention.

The program is run on abstract values, by the interpreter that rewrites programs, with a `Probe` in
the place of each input of interest. A probe goes where a wrapped value would go: through layout
operations, nested programs and loops, and through updates of a part of it. What it meets on the way
is the answer.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from typing import Any

import jax

from qpass.graph._jax import JaxprEqn, bind
from qpass.graph.dataflow import Dataflow, Key
from qpass.graph.program import Program
from qpass.graph.provenance import LAYOUT, Axes, leaf_origin
from qpass.graph.reads import NOTHING, reads
from qpass.graph.rebuild import REBUILD
from qpass.graph.rewrite import Frame, Result, Rewriter

NO_AXES: frozenset[int] = frozenset()


@partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["leaf", "axes"])
@dataclass(frozen=True, eq=False)
class Probe:
    """A value that is an input, or a part of one, whatever was written into it.

    Attributes:
        array: its float array.
        leaf: index of the input.
        axes: for each dimension, the axes of the input that it consists of. Counted from the end:
            where a scan has taken a layer, those of the layers still stand in front.
    """

    array: Any
    leaf: int
    axes: Axes

    @property
    def own(self) -> Axes:
        """The axes of each dimension that is there."""
        missing = self.array.ndim - len(self.axes)
        return (NO_AXES,) * missing + self.axes[max(-missing, 0) :]

    def moved(self, array: Any, axes: Axes) -> "Probe":
        """The probe after a layout operation."""
        in_front = self.axes[: max(len(self.axes) - self.array.ndim, 0)]
        return Probe(array, self.leaf, (*in_front, *axes))


@dataclass(frozen=True, eq=False)
class Write:
    """An update of a part of a state.

    Attributes:
        eqn: the equation.
        covered: axes of the input along which all elements are written together, wherever the
            others lead.
    """

    eqn: JaxprEqn
    covered: frozenset[int]


@dataclass(frozen=True, eq=False)
class Read:
    """A product that reads a state.

    Attributes:
        eqn: the equation.
        operand: which of its operands the state is.
        axes: of the input, for each dimension of that operand.
    """

    eqn: JaxprEqn
    operand: int
    axes: Axes


@dataclass(eq=False)
class State:
    """What was found about one input.

    Attributes:
        shape: of the input.
        outputs: results of the program that are the input, updated.
        writes: updates of a part of it, by call path.
        reads: products that read it, likewise.
        ends: where it was needed as floats, in words.
    """

    shape: tuple[int, ...]
    outputs: tuple[int, ...] = ()
    writes: dict[Key, Write] = field(default_factory=dict)
    reads: dict[Key, Read] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)


def find_states(
    program: Program, dataflow: Dataflow, leaves: Collection[int]
) -> Mapping[int, State]:
    """What happens to those inputs in the program, by their index."""
    states = {leaf: State(program.call.values[leaf].shape) for leaf in leaves}
    varies = _starts(dataflow, [leaf.is_param for leaf in program.leaves])
    prober = _Prober(
        {}, dataflow.derivatives, _Probes(), REBUILD, tap=_untapped, states=states, varies=varies
    )

    def run(*arrays: Any) -> tuple:
        inputs = [_probe(k, x) if k in states else x for k, x in enumerate(arrays)]
        results, _ = prober.run(program.jaxpr, inputs, Frame())
        for leaf, state in states.items():
            state.outputs = tuple(k for k, x in enumerate(results) if _is_whole(x, inputs[leaf]))
        return ()

    jax.eval_shape(run, *program.call.values)
    return states


def _probe(leaf: int, array: Any) -> Probe:
    return Probe(array, leaf, leaf_origin(leaf, array.ndim).axes)


def _is_whole(value: Any, given: Probe) -> bool:
    """Whether a value is the input itself, no part of it and not turned."""
    if not isinstance(value, Probe) or value.leaf != given.leaf:
        return False
    return (value.axes, value.array.shape) == (given.axes, given.array.shape)


def _untapped(key: Key, eqn: JaxprEqn, operands: Sequence[Any], result: Any) -> None:
    raise AssertionError("a program that is only probed has no decided sites")


def _starts(dataflow: Dataflow, is_param: Sequence[bool]) -> Callable[[Key, int], bool]:
    """Tells whether an operand of an update depends on what the program is given."""
    graph = dataflow.graph
    known = reads(graph, is_param)
    nodes = {
        (found["key"], slot): above
        for node, found in graph.nodes(data=True)
        if found.get("op") == "dynamic_update_slice"
        for above, _, slot in graph.in_edges(node, data="slot")
    }
    return lambda key, slot: (key, slot) not in nodes or known[nodes[key, slot]] != NOTHING


class _Probes:
    """`qpass.graph.rewrite.Operations` on probes."""

    def is_wrapped(self, value: Any) -> bool:
        return isinstance(value, Probe)

    def is_state(self, value: Any) -> bool:
        return isinstance(value, Probe)

    def unwrap(self, value: Any) -> Any:
        return value.array if isinstance(value, Probe) else value

    def latent_position(self, value: Any) -> None:
        return None

    def layers(self, value: Any) -> None:
        return None

    def stacked(self, value: Any) -> Any:
        return value

    def shard(self, value: Any, spec: Any, mesh: Any) -> None:
        return None

    def contraction(self, decision: Any, eqn: Any, operands: Any, fed: Any = None) -> Any:
        raise AssertionError("a program that is only probed has no decided sites")

    def region(self, action: Any, members: Any, inputs: Any) -> None:
        return None

    def layout(self, eqn: JaxprEqn, operands: Sequence[Any]) -> Any | None:
        name = eqn.primitive.name
        arrays = [self.unwrap(value) for value in operands]
        if name == "optimization_barrier":
            pairs = zip(operands, bind(eqn, arrays), strict=True)
            return [replace(x, array=y) if isinstance(x, Probe) else y for x, y in pairs]
        probe = operands[0]
        rule = _gathered if name == "gather" else LAYOUT.get(name)
        if rule is None or not isinstance(probe, Probe):
            return None
        axes = rule(eqn, probe.own)
        return None if axes is None else probe.moved(bind(eqn, arrays)[0], axes)


def _gathered(eqn: JaxprEqn, axes: Axes) -> Axes:
    """A look-up: dimensions of the indices are none of the input's."""
    numbers = eqn.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = iter([a for d, a in enumerate(axes) if d not in gone])
    ndim = eqn.outvars[0].aval.ndim
    return tuple(next(kept) if d in numbers.offset_dims else NO_AXES for d in range(ndim))


@dataclass(eq=False)
class _Prober(Rewriter):
    """The interpreter, with an eye on what happens to probes."""

    states: Mapping[int, State] = field(default_factory=dict)
    varies: Callable[[Key, int], bool] = lambda key, slot: True

    def equation(self, eqn: JaxprEqn, operands: list, frame: Frame, index: int) -> Result:
        key, name = (frame.path, index), eqn.primitive.name
        if name == "dot_general" and any(isinstance(x, Probe) for x in operands):
            return self._read(eqn, operands, key), {}
        if name in COVERED and isinstance(operands[0], Probe):
            return [self._write(eqn, operands, key)], {}
        return super().equation(eqn, operands, frame, index)

    def unwrap(self, value: Any, key: Key, why: str) -> Any:
        if isinstance(value, Probe):
            self.states[value.leaf].ends.append(why)
        return super().unwrap(value, key, why)

    def _read(self, eqn: JaxprEqn, operands: list, key: Key) -> list:
        for operand, value in enumerate(operands):
            if isinstance(value, Probe):
                self.states[value.leaf].reads[key] = Read(eqn, operand, value.own)
        return bind(eqn, [self.operations.unwrap(value) for value in operands])

    def _write(self, eqn: JaxprEqn, operands: list, key: Key) -> Any:
        probe, update = operands[0], operands[PLACE[eqn.primitive.name]]
        arrays = [self.operations.unwrap(value) for value in operands]
        (result,) = bind(eqn, arrays)
        if isinstance(update, Probe) and update.leaf == probe.leaf:
            return replace(probe, array=result)  # a part of it, written back
        state = self.states[probe.leaf]
        filled = COVERED[eqn.primitive.name](eqn, lambda slot: self.varies(key, slot))
        sizes = probe.array.shape
        dims = [
            f and n == math.prod(state.shape[a] for a in axes)
            for f, n, axes in zip(filled, sizes, probe.own, strict=True)
        ]
        state.writes[key] = Write(eqn, NO_AXES.union(*compress(probe.own, dims)))
        return replace(probe, array=result)


def _covered_by_slice(eqn: JaxprEqn, varies: Callable[[int], bool]) -> list[bool]:
    """Dimensions that an update fills, from a start that does not depend on what is given.

    A start that does, as the position of the first of so many tokens, names what is written apart.
    """
    pairs = zip(eqn.invars[0].aval.shape, eqn.invars[1].aval.shape, strict=True)
    return [n == m and not varies(2 + d) for d, (n, m) in enumerate(pairs)]


def _covered_by_scatter(eqn: JaxprEqn, varies: Callable[[int], bool]) -> list[bool]:
    """Dimensions that the window fills."""
    return [
        place is not None and eqn.invars[2].aval.shape[place] == n
        for n, place in zip(eqn.invars[0].aval.shape, scattered_windows(eqn), strict=True)
    ]


def scattered_windows(eqn: JaxprEqn) -> list[int | None]:
    """For each dimension of what a scatter updates, that of the updates; None for one index."""
    numbers = eqn.params["dimension_numbers"]
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    windows = iter(numbers.update_window_dims)
    return [None if d in gone else next(windows) for d in range(eqn.invars[0].aval.ndim)]


COVERED: Mapping[str, Callable] = {
    "dynamic_update_slice": _covered_by_slice,
    "scatter": _covered_by_scatter,
}
PLACE = {"dynamic_update_slice": 1, "scatter": 2}
