"""How products are timed: in turns, with weights that no cache holds, many calls to a program."""

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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


METHOD = Method()


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
    """Median seconds of each program, which runs once before, untimed."""
    for program in programs.values():
        jax.block_until_ready(program())
    turns = {name: partial(one_call, call, method.clock) for name, call in programs.items()}
    seconds = take_turns(turns, method.rounds)
    return {name: statistics.median(own) for name, own in seconds.items()}


def take_turns[T](
    turns: Mapping[T, Callable[[], float]], rounds: int, tick: Callable[[], None] = lambda: None
) -> dict[T, tuple[float, ...]]:
    """Seconds of every round by name, where each turn runs a contestant and says how long it took.

    A round gives each one turn, in an order that is drawn for it (in every run the same): threads
    of one contestant may still be awake, and its arrays in the cache, when the next one starts.
    ``tick`` is called after every turn.
    """
    order = random.Random(0)
    seconds: dict[T, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name in order.sample(list(turns), len(turns)):
            seconds[name].append(turns[name]())
            tick()
    return {name: tuple(own) for name, own in seconds.items()}


def one_call(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of a call; its results are waited for."""
    start = clock()
    jax.block_until_ready(call())
    return clock() - start
