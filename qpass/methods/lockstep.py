"""Lockstep: a program evaluated for many batches at once, one equation after the other.

At some products it stops until all batches have come there, shows what each batch multiplies, and
goes on with what it is given as the results. Call boundaries are entered, and scans are run
iteration by iteration, so that each layer is stopped at by itself. What lies between is compiled,
a stretch of a scan's body once for all iterations.

Values that are still to be read wait on the host, of each batch; on the device there are those of
one batch at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass.graph._jax import Jaxpr, JaxprEqn, Literal, equation_context, named_like, scan_parts
from qpass.graph.dataflow import Key
from qpass.graph.higher_order import bodies
from qpass.graph.rewrite import Frame, Rewriter

# Equations that run their one sub-program once: it can be run in their place.
CALLS = frozenset(
    {"jit", "pjit", "remat2", "checkpoint", "eval_jaxpr", "closed_call", "core_call"}
    | {"remat_opt", "xla_metadata_call", "custom_jvp_call", "custom_vjp_call"}
)

type Batches = list[list[Any]]
type At = Mapping[Key, int]
type Stop = Callable[[Key, Batches, Any, At], list[Any]]


@dataclass(eq=False)
class Lockstep:
    """One evaluation of one program.

    Attributes:
        rewriter: evaluates all equations but those that are stopped at.
        stops: products to stop at, by call path; inside of nothing but `CALLS` and scans.
        stop: of such a product, its operands for each batch, what it is fed and the iterations of
            the scans around it: its result for each batch, `waiting`.
    """

    rewriter: Rewriter
    stops: frozenset[Key]
    stop: Stop
    _around: set[Key] = field(default_factory=set)
    _compiled: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path, _ in self.stops:
            self._around |= {(path[:d], path[d][0]) for d in range(len(path))}

    def run(self, jaxpr: Jaxpr, inputs: Batches, frame: Frame, at: At) -> Batches:
        """The outputs of every batch, arrays or wrapped.

        Args:
            jaxpr: the program, or a part of it.
            inputs: of every batch, arrays or wrapped.
            frame: where it is.
            at: the iterations of the scans around it.
        """
        given = zip(jaxpr.constvars, jaxpr.consts, strict=True)
        constants = dict(given)
        envs = [constants | dict(zip(jaxpr.invars, values, strict=True)) for values in inputs]
        last = _last_reads(jaxpr)
        for part in self._parts(jaxpr, frame):
            if len(part) == 1 and self._stops_in((frame.path, part[0])):
                self._entered(jaxpr.eqns[part[0]], envs, frame, part[0], at)
            else:
                self._stretch(jaxpr, part, envs, frame, last)
            for env in envs:
                for var in [v for v in env if last.get(v, -1) <= part[-1]]:
                    del env[var]
        return [[_read(env, atom) for atom in jaxpr.outvars] for env in envs]

    def _stops_in(self, key: Key) -> bool:
        return key in self.stops or key in self._around

    def _parts(self, jaxpr: Jaxpr, frame: Frame) -> list[tuple[int, ...]]:
        """The equations in order: each that holds a stop by itself, and what lies between."""
        parts: list[list[int]] = [[]]
        for index in range(len(jaxpr.eqns)):
            if self._stops_in((frame.path, index)):
                parts += [[index], []]
            else:
                parts[-1].append(index)
        return [tuple(part) for part in parts if part]

    def _stretch(
        self, jaxpr: Jaxpr, part: tuple[int, ...], envs: list[dict], frame: Frame, last: dict
    ) -> None:
        """Evaluate equations without a stop, compiled together."""
        key = (frame.path, part[0])
        if key not in self._compiled:
            self._compiled[key] = self._compile(jaxpr, part, frame, last)
        reads, writes, run = self._compiled[key]
        for env in envs:
            made = map(waiting, run([env[v] for v in reads], frame.feeds))
            env.update(zip(writes, made, strict=True))

    def _compile(self, jaxpr: Jaxpr, part: tuple[int, ...], frame: Frame, last: dict) -> tuple:
        eqns = [jaxpr.eqns[index] for index in part]
        made = [v for eqn in eqns for v in eqn.outvars]
        atoms = [a for eqn in eqns for a in eqn.invars if not isinstance(a, Literal)]
        reads = [v for v in dict.fromkeys(atoms) if v not in set(made)]
        writes = [v for v in made if last.get(v, -1) > part[-1]]

        def run(values: list, feeds: Any) -> list:
            env, here = dict(zip(reads, values, strict=True)), frame.fed(feeds)
            for index, eqn in zip(part, eqns, strict=True):
                operands = [_read(env, atom) for atom in eqn.invars]
                with named_like(eqn), equation_context(eqn):
                    results, _ = self.rewriter.equation(eqn, operands, here, index)
                env.update(zip(eqn.outvars, results, strict=True))
            return [env[v] for v in writes]

        return reads, writes, jax.jit(run)

    def _entered(self, eqn: JaxprEqn, envs: list[dict], frame: Frame, index: int, at: At) -> None:
        """Evaluate an equation that is stopped at, or one with such an equation inside."""
        operands = [[_read(env, atom) for atom in eqn.invars] for env in envs]
        key = (frame.path, index)
        if key in self.stops:
            found = self.stop(key, operands, frame.feeds.get(str(index)), at)
            results = [[value] for value in found]
        elif eqn.primitive.name == "scan":
            results = self._scan(eqn, operands, frame, index, at)
        else:
            (body,) = bodies(eqn)
            results = self.run(body.jaxpr, operands, frame.enter(index, body.key), at)
        for env, values in zip(envs, results, strict=True):
            env.update(zip(eqn.outvars, values, strict=True))

    def _scan(self, eqn: JaxprEqn, operands: Batches, frame: Frame, index: int, at: At) -> Batches:
        inner, length = frame.enter(index, "body"), eqn.params["length"]
        parts = [scan_parts(eqn, values) for values in operands]
        carries, rows = [list(carry) for _, carry, _ in parts], []
        order = range(length - 1, -1, -1) if eqn.params["reverse"] else range(length)
        for number in order:
            slices = _Slices(self.rewriter.operations.stacked, number)
            inputs = [
                [*consts, *carry, *map(slices, xs)]
                for (consts, _, xs), carry in zip(parts, carries, strict=True)
            ]
            feeds = jax.tree.map(lambda fed, k=number: fed[k], inner.feeds)
            here = {**at, (frame.path, index): number}
            outs = self.run(eqn.params["jaxpr"], inputs, inner.fed(feeds), here)
            values = [list(map(self.rewriter.operations.unwrap, out)) for out in outs]
            n = len(carries[0])
            carries = [out[:n] for out in values]
            rows.append([out[n:] for out in values])
        rows = rows[::-1] if eqn.params["reverse"] else rows
        stacked = [
            [waiting(jnp.stack(ys)) for ys in zip(*batch, strict=True)]
            for batch in zip(*rows, strict=True)
        ]
        return [[*carry, *ys] for carry, ys in zip(carries, stacked, strict=True)]


class _Slices:
    """One layer of stacks, each taken once however many batches read it."""

    def __init__(self, stacked: Callable, number: int) -> None:
        self.stacked, self.number = stacked, number
        self.known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, x: Any) -> Any:
        if id(x) not in self.known:
            layer = jax.tree.map(lambda a: a[self.number], self.stacked(x))
            self.known[id(x)] = (x, layer)  # x itself, so that its id stays its own
        return self.known[id(x)][1]


def waiting(value: Any) -> Any:
    """A value that is read later: an array of one device goes to the host."""
    if not isinstance(value, jax.Array) or len(value.sharding.device_set) > 1:
        return value
    is_plain = not jnp.issubdtype(value.dtype, jax.dtypes.extended)
    return np.array(value) if is_plain else value  # a view would keep the array


def _read(env: Mapping[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else env[atom]


def _last_reads(jaxpr: Jaxpr) -> dict[Any, int]:
    """For each variable, the last equation that reads it; beyond all for the outputs."""
    last = {
        atom: index
        for index, eqn in enumerate(jaxpr.eqns)
        for atom in eqn.invars
        if not isinstance(atom, Literal)
    }
    out: Sequence = [atom for atom in jaxpr.outvars if not isinstance(atom, Literal)]
    return last | dict.fromkeys(out, len(jaxpr.eqns))
