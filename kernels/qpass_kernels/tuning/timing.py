"""How products are timed: in turns, with weights that no cache holds, many calls to a program."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
        least: calls in a turn; starting a program costs microseconds, as a small product does.
        clock: seconds.
    """

    rounds: int = 7
    cache: int = CACHE
    least: int = 16
    clock: Callable[[], float] = time.perf_counter

    def weights(self, product: Product) -> int:
        """How many weights a turn walks through."""
        return max(2, min(MOST_CALLS, -(-self.cache // weight_bytes(product))))

    def calls(self, product: Product) -> int:
        """How many products a turn computes; weights that have all been used come again."""
        return max(self.weights(product), min(MOST_CALLS, self.least))


def one_after_another(
    run: Callable[..., Any],
    calls: int,
    lhs: Any,
    lhs_scale: Any,
    weights: Sequence[Any],
    rhs_scale: Any,
) -> list[Any]:
    """As many products, of the weights in turn, in one program: starting it is not to be timed.

    Each waits for the one before, so that no two of them become one product.
    """
    results = []
    for weight in itertools.islice(itertools.cycle(weights), calls):
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
