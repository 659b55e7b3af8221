"""How products are timed: in turns, with weights that no cache holds, many calls to a program."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from qpass_kernels.kernel import Product
from qpass_kernels.tuning.operands import weight_bytes

CACHE = 2**27  # bytes: twice what the largest second-level cache of the GPUs here holds
MOST_CALLS = 64  # in one program, else compiling takes longer than the rest


@dataclass(frozen=True)
class Method:
    """How to measure.

    Attributes:
        rounds: in each of which everybody has a turn.
        cache: bytes of weights that a turn walks through, so that none is found in a cache.
        clock: seconds.
    """

    rounds: int = 7
    cache: int = CACHE
    clock: Callable[[], float] = time.perf_counter

    def calls(self, product: Product) -> int:
        """How many weights a turn walks through, each multiplied once."""
        return max(2, min(MOST_CALLS, -(-self.cache // weight_bytes(product))))


def one_after_another(
    run: Callable[..., Any], lhs: Any, lhs_scale: Any, weights: tuple, rhs_scale: Any
) -> list[Any]:
    """The product with each weight, in one program: starting a call is not what is to be timed.

    Each waits for the one before, so that no two of them become one product.
    """
    results = []
    for weight in weights:
        result = run(lhs, lhs_scale, weight, rhs_scale)
        lhs, result = jax.lax.optimization_barrier((lhs, result))
        results.append(result)
    return results


def in_turns(programs: Mapping[Any, Callable[[], Any]], method: Method) -> dict[Any, float]:
    """Median seconds of each program, which runs once before; who is first in a round changes."""
    for program in programs.values():
        jax.block_until_ready(program())
    seconds: dict[Any, list[float]] = {name: [] for name in programs}
    names = list(programs)
    for number in range(method.rounds):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            start = method.clock()
            jax.block_until_ready(programs[name]())
            seconds[name].append(method.clock() - start)
    return {name: statistics.median(own) for name, own in seconds.items()}
