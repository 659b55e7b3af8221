"""How fast this machine can read memory and multiply: the roof over every figure.

A program that has to read so many bytes and to do so many operations takes at least the longer of
the two times that the machine needs for either (Williams, Waterman and Patterson, Roofline, 2009).
Both are measured in the run itself, a little after every case, because clocks and neighbours
change. What fits into a cache is read from there, so reading is measured for several sizes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.running.machine import threads

SIZES = tuple(2**n for n in range(18, 29, 2))
"""Bytes that are read: a quarter of a MiB to 256 MiB."""
AT_LEAST = 2**25
"""Bytes that a measurement reads in all, going over a small array again and again."""
SQUARE = 1024
"""Rows, columns and depth of the product that finds the peak."""
UNITS = ("float32", "bfloat16", "int8")

Probe = Callable[[], float]
"""Measures once: bytes or operations a second."""


@dataclass(frozen=True)
class Team:
    """Threads that share work out evenly."""

    members: int
    pool: ThreadPoolExecutor

    def seconds(self, go: Callable[..., None], *arrays: np.ndarray) -> float:
        """How long it takes until every thread has done its part of the arrays."""
        parts = [np.array_split(array, self.members) for array in arrays]
        start = time.perf_counter()
        list(self.pool.map(go, *parts))
        return time.perf_counter() - start


@dataclass(frozen=True)
class Roofline:
    """Bytes a second by how many are read, and operations a second by dtype; medians."""

    reads: Mapping[int, float]
    peaks: Mapping[str, float]
    copy: float = 0.0

    def bandwidth(self, size: float) -> float:
        """Bytes a second when so many are read again and again; between sizes interpolated."""
        sizes = sorted(self.reads)
        known = [self.reads[s] for s in sizes]
        return float(np.interp(np.log(max(size, 1)), np.log(sizes), known))

    def bound(self, held: float, moved: float, ops: float, units: str) -> tuple[float, str]:
        """The least seconds for a call, and whether "memory" or "compute" sets them.

        Args:
            held: bytes of the weights, which decide the cache that they are read from.
            moved: bytes read and written in a call.
            ops: operations in a call.
            units: the dtype that multiplies.
        """
        memory, compute = moved / self.bandwidth(held), ops / self.peaks[units]
        return (memory, "memory") if memory >= compute else (compute, "compute")

    def report(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "read": {str(size): speed for size, speed in self.reads.items()},
            "copy": self.copy,
            "peak": dict(self.peaks),
        }


def read_report(report: Mapping[str, Any]) -> Roofline:
    """What `Roofline.report` wrote."""
    reads = {int(size): speed for size, speed in report["read"].items()}
    return Roofline(reads, report["peak"], report["copy"])


@dataclass(frozen=True)
class Sampler:
    """Probes by name, and what each has found so far; the best probe of a name counts."""

    probes: Mapping[str, Sequence[Probe]]
    found: dict[str, list[float]] = field(default_factory=dict)

    def sample(self) -> None:
        """Run every probe once."""
        for name, probes in self.probes.items():
            self.found.setdefault(name, []).append(max(probe() for probe in probes))

    def roofline(self) -> Roofline:
        """The medians of all samples."""
        middle = {name: statistics.median(found) for name, found in self.found.items()}
        reads = {int(name[5:]): speed for name, speed in middle.items() if name.startswith("read ")}
        peaks = {name[5:]: speed for name, speed in middle.items() if name.startswith("peak ")}
        return Roofline(reads, peaks, middle["copy"])


def sampler(sizes: Sequence[int] = SIZES, square: int = SQUARE) -> Sampler:
    """Probes of this machine, each run once to warm up."""
    team = Team(threads(), ThreadPoolExecutor(threads()))
    array = np.ones(max(sizes) // 4, np.float32)
    probes: dict[str, Sequence[Probe]] = {
        f"read {size}": (partial(_read, team, array[: size // 4]),) for size in sizes
    }
    probes["copy"] = (partial(_copy, team, *np.array_split(array, 2)),)
    probes |= {f"peak {units}": _peaks(units, square) for units in UNITS}
    for each in probes.values():
        for probe in each:
            probe()
    return Sampler(probes)


def _read(team: Team, array: np.ndarray) -> float:
    """Every thread goes over its part of the array."""
    times = max(1, AT_LEAST // array.nbytes)

    def go(part: np.ndarray) -> None:
        for _ in range(times):
            part.max()

    return times * array.nbytes / team.seconds(go, array)


def _copy(team: Team, target: np.ndarray, source: np.ndarray) -> float:
    """Every thread copies its part; each byte is read once and written once."""
    return 2 * source.nbytes / team.seconds(np.copyto, target, source)


def _peaks(units: str, square: int) -> Sequence[Probe]:
    """What XLA makes of a product of two squares, with the right one in either layout."""
    one = jnp.ones((square, square), units)
    out = jnp.int32 if units == "int8" else one.dtype

    def product(contracted: int, a: jax.Array, b: jax.Array) -> jax.Array:
        dims = ((1,), (contracted,)), ((), ())
        return jax.lax.dot_general(a, b, dims, preferred_element_type=out)

    return [partial(_peak, jax.jit(partial(product, c)), one) for c in (0, 1)]


def _peak(product: Callable[..., jax.Array], one: jax.Array) -> float:
    start = time.perf_counter()
    product(one, one).block_until_ready()
    return 2 * one.shape[0] ** 3 / (time.perf_counter() - start)
