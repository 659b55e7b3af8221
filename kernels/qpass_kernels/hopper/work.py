"""How a product of 8-bit codes is cut up for Hopper, and what that asks of shared memory."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl

from qpass_kernels.epilogue import NOTHING, Epilogue
from qpass_kernels.hopper.device import MULTIPROCESSORS
from qpass_kernels.hopper.warpgroups import ROWS
from qpass_kernels.kernel import Product, dtype

PART = 128  # columns that are added up in float32 at a time, so that registers suffice
WIDTHS = (128, 64, 32)  # bytes of a row of codes that may lie together in shared memory


@dataclass(frozen=True)
class Config:
    """How a product is cut up.

    Attributes:
        m, n, k: tile of the result, and what is copied of K at a time.
        steps: tiles of K in shared memory, one of them being multiplied.
        slots: pieces of the result in shared memory, one filled while others are written.
        turned: the weight is the left side of the tensor core's product.
        split: parts of K that different blocks multiply; their sums are added up at the end.
        band: tiles of M that are walked over before the next tile of N, so that both stay in L2.
        pairs: blocks go in pairs along M, and a tile of the weight is copied once for both.
        blocks: blocks that run at the same time: one for each of the device's multiprocessors.
    """

    m: int
    n: int
    k: int = 128
    steps: int = 4
    slots: int = 2
    turned: bool = False
    split: int = 1
    band: int = 8
    pairs: bool = False
    blocks: int = MULTIPROCESSORS


def promoted(product: Product) -> bool:
    """Whether each tile of K is summed up by itself, and added in float32 with its scales.

    Otherwise the tensor core adds up all of K in place. Of a sum of fp8 it keeps about 14 bits.
    """
    return product.grouped or not product.integer


@dataclass(frozen=True)
class Work:
    """A product and its config, seen from the tensor core.

    Attributes:
        product, config: what is computed, and how.
    """

    product: Product
    config: Config

    @property
    def sides(self) -> tuple[str, str]:
        """Names of the left and the right side."""
        return ("rhs", "lhs") if self.config.turned else ("lhs", "rhs")

    def tile(self, side: str) -> int:
        """Rows of an operand in a tile."""
        return self.config.m if side == "lhs" else self.config.n

    def with_scale(self, kind: str) -> tuple[str, ...]:
        """Sides with scales of a kind, lhs first: the order in which the reference multiplies."""
        kinds = {"lhs": self.product.lhs_scale, "rhs": self.product.rhs_scale}
        return tuple(side for side, its in kinds.items() if its == kind)

    @property
    def late(self) -> tuple[str, ...]:
        """Sides whose row scales the kernel multiplies a finished tile by."""
        return self.with_scale("row") if self.config.split == 1 else ()

    @property
    def epilogue(self) -> Epilogue:
        """What the kernel does with a finished tile; where K is split, there is none yet."""
        return self.product.epilogue if self.config.split == 1 else NOTHING

    @property
    def vectors(self) -> dict[str, str]:
        """Arrays with a number for each row of a side, which a finished tile needs: name, side."""
        bias = {"bias": "rhs"} if self.epilogue.bias else {}
        return {side: side for side in self.late} | bias

    @property
    def warpgroups(self) -> int:
        """Those that multiply."""
        return self.tile(self.sides[0]) // ROWS

    @property
    def columns(self) -> int:
        """Columns of a tile, as the tensor core sees it."""
        return self.tile(self.sides[1])

    @property
    def rows(self) -> int:
        """Rows of the result that the kernel writes: 8 lie together in shared memory."""
        return -(-self.product.m // 8) * 8

    @property
    def together(self) -> int:
        """Tiles along M that blocks take together."""
        return 2 if self.config.pairs else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles along M (those together as one) and N."""
        m, n = self.config.m * self.together, self.config.n
        return pl.cdiv(self.product.m, m), pl.cdiv(self.product.n, n)

    @property
    def count(self) -> int:
        """Tiles in all, those together as one."""
        return self.config.split * self.grid[0] * self.grid[1]

    @property
    def k_steps(self) -> int:
        """Tiles along K of one part."""
        return pl.cdiv(pl.cdiv(self.product.k, self.config.k), self.config.split)

    @property
    def accumulator(self) -> Any:
        """What the tensor core adds up in."""
        return jnp.int32 if self.product.integer else jnp.float32

    @property
    def result(self) -> Any:
        """What the kernel writes: sums that are still to be added up where K is split.

        float32 also where rows of the product's own type are not whole in 32 bytes.
        """
        if self.config.split > 1:
            return jnp.dtype(jnp.float32 if promoted(self.product) else self.accumulator)
        out = dtype(self.product.out)
        return out if self.product.n * out.itemsize % WIDTHS[-1] == 0 else jnp.dtype(jnp.float32)

    @property
    def piece(self) -> int:
        """Columns of a tile that are written at a time: 128 bytes of a row."""
        return min(self.columns, 128 // self.result.itemsize)


def row_bytes(k: int, tile: int) -> int | None:
    """The greatest of `WIDTHS` that K and a tile of it are whole in; None where none is."""
    return next((width for width in WIDTHS if k % width == 0 and tile % width == 0), None)
