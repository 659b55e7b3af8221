"""Honest clocks: contestants take turns, and a figure comes with its spread.

Two programs timed one after the other are timed on two different machines: clocks, caches and
neighbours change. So every round runs each contestant once, in an order drawn for it, and the
ratio to the first is taken round by round before the median.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from qpass_kernels.tuning.timing import one_call, take_turns


def machine() -> dict[str, Any]:
    """What a figure was measured on, for its report."""
    return {
        "platform": jax.default_backend(),
        "cores": getattr(os, "process_cpu_count", os.cpu_count)(),
        "jax": jax.__version__,
    }


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, and what they were divided by to get ``ratio``."""

    seconds: tuple[float, ...]
    baseline: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest round, in seconds."""
        return min(self.seconds), max(self.seconds)

    @property
    def ratio(self) -> float:
        """How many times as fast as the baseline: the median over rounds of baseline / own."""
        pairs = zip(self.baseline, self.seconds, strict=True)
        return statistics.median(base / own for base, own in pairs)

    def report(self, units: float) -> dict[str, Any]:
        """Rates for ``units`` of work in each call, ready for JSON."""
        fast, slow = self.spread
        return {
            "per_second": units / self.median,
            "per_second_range": [units / slow, units / fast],
            "ratio": self.ratio,
            "rounds": len(self.seconds),
        }


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time every contestant once a round; the first named one is the baseline of the ratios.

    Each is called once before, untimed, to compile and to warm up. Results are waited for inside
    the clock. ``tick`` is called after every call, for a progress bar.

    Raises:
        ValueError: no contestants, or no rounds.
    """
    if not contestants or rounds < 1:
        raise ValueError(
            f"Timing needs contestants and rounds; got {len(contestants)} and {rounds}."
        )
    for call in contestants.values():
        jax.block_until_ready(call())
        tick()
    turns = {name: partial(one_call, call, clock) for name, call in contestants.items()}
    seconds = take_turns(turns, rounds, tick)
    return {name: Timing(own, seconds[next(iter(turns))]) for name, own in seconds.items()}
