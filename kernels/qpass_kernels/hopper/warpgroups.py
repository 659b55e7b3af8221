"""What programs of several warpgroups share."""

from collections.abc import Callable
from typing import Any

from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS = 64  # of the tensor core's left operand, by one warpgroup
CONSUMERS = 2  # warpgroups that multiply, where another one copies
WIDTH = ROWS * CONSUMERS  # rows of the weight in a tile of theirs
PIECE = 64  # rows of a result that are stored at once
LEAST = 32  # float32 numbers that can be copied at a time: one for each thread of a warp
LANE = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane)


def accumulated(add: Callable[[Any], Any], shape: tuple[int, int], kind: Any) -> Any:
    """The sums that the tensor core has when `add` has multiplied into an empty accumulator."""

    def scope(acc: Any) -> Any:
        add(acc)
        return acc[...]

    return pl.run_scoped(scope, plgpu.WGMMAAccumulatorRef(shape, kind))


def nothing(*_: Any) -> None:
    """Stand in for the functions of a pipeline of which only the memory is asked."""
