"""Shared memory where a piece of the result is put together, and what passes through it before.

Arrays of the result's shape are copied to where the result is going to lie: the copies are clipped
at edges as those of the result are, and no more memory is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.epilogue import Epilogue, apply
from qpass_kernels.hopper.layouts import LAYOUT


@dataclass(frozen=True)
class Slot:
    """The place of a piece.

    Attributes:
        piece: shared memory, rows of lhs by rows of rhs.
        arrived: a barrier for one copy; None where none is made.
        turned: values in registers are rows of rhs by rows of lhs.
        simulated: in the interpreter, which knows no layouts.
    """

    piece: Any
    arrived: Any
    turned: bool
    simulated: bool

    @property
    def layout(self) -> Any:
        """How values lie in registers when they are read."""
        return LAYOUT.WGMMA_TRANSPOSED if self.turned and not self.simulated else LAYOUT.WGMMA

    def laid(self, values: Any) -> Any:
        """Bring values to the layout in which they are read and put."""
        return plgpu.layout_cast(values, self.layout) if self.turned else values

    def read(self, source: Any) -> Any:
        """Bring a piece of another array from global memory to registers."""
        plgpu.copy_gmem_to_smem(source, self.piece, self.arrived)
        plgpu.barrier_wait(self.arrived)
        if self.simulated and self.turned:
            values = self.piece[...].T
        else:
            piece = self.piece.T if self.turned else self.piece
            values = plgpu.load(piece, layout=self.layout)
        plgpu.commit_smem()  # what is written here next comes after these reads
        return values

    def put(self, values: Any) -> None:
        """Write a piece, and make it visible to copies."""
        if not self.turned:
            self.piece[...] = values
        elif self.simulated:
            self.piece[...] = values.T
        else:
            self.piece.T[...] = self.laid(values)
        plgpu.commit_smem()


def followed(
    epilogue: Epilogue,
    values: Any,
    bias: Callable[[Any], Any],
    beside: Sequence[Any],
    slot: Slot,
) -> Any:
    """Apply an epilogue to a piece in registers.

    Args:
        epilogue: what to do.
        values: float32 sums.
        bias: layout -> the bias spread over the piece; asked only where there is one.
        beside: pieces of the arrays of the result's shape, in global memory.
        slot: through which these pass.
    """

    def operands() -> Iterator[Any]:
        if epilogue.bias:
            yield bias(slot.layout)
        for source in beside:
            yield slot.read(source).astype(jnp.float32)

    return apply(epilogue, slot.laid(values), operands())
