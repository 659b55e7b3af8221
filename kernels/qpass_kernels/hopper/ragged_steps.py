"""What a warpgroup does with a step along K of a ragged product, by the types of its operands."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.hopper import layouts
from qpass_kernels.hopper.layouts import of_columns
from qpass_kernels.hopper.ragged_kernel import Config
from qpass_kernels.hopper.registers import (
    Weight,
    add_decoded,
    add_sums,
    float_layout,
    of_rows,
    spread,
    vector,
    weight_layout,
    widened,
)
from qpass_kernels.hopper.warpgroups import LEAST, ROWS, WIDTH, accumulated
from qpass_kernels.ragged import RaggedProduct

WINDOW = 4  # scales of groups that are copied at once: 16 bytes


def exact(product: RaggedProduct) -> bool:
    """Whether group scales multiply sums; those of shorter groups multiply codes."""
    return product.grouped and product.group >= 64


def accumulator(product: RaggedProduct) -> Any:
    """What the tensor core adds up all of K in; None where sums are handed on in float32.

    It keeps too few bits of long sums of fp8.
    """
    if product.weight_only:
        return None if exact(product) else jnp.float32
    return jnp.int32 if product.integer and not product.grouped else None


def grouped(product: RaggedProduct) -> list[str]:
    """Sides with group scales, lhs first: the order in which the reference multiplies."""
    kinds = {"lhs": product.lhs_scale, "rhs": product.rhs_scale}
    return [side for side, kind in kinds.items() if kind == "group"]


def window(product: RaggedProduct, config: Config) -> int:
    """Scales of a row of the weight that are copied at once."""
    return max(WINDOW, config.k // product.group)


@dataclass(frozen=True)
class Steps:
    """The steps along K of a product.

    Attributes:
        product, config: what is computed, and how it is cut up.
        weight: types of the operands.
    """

    product: RaggedProduct
    config: Config
    weight: Weight

    def specs(self, expert: Any, row: Any, n: Any) -> list:
        """Blocks of the weight, of lhs, and of the scales of groups beside them."""
        product, config = self.product, self.config
        floats = product.weight_only
        late = 0 if floats or accumulator(product) is None else 1
        apart = jnp.int32(max(1, product.group // config.k))  # steps that a group lasts
        wide = window(product, config)
        per = jnp.int32(product.group * wide // config.k)  # steps that a window lasts
        kind = self.weight.kind
        lines = float_layout(kind, self.weight.span) if floats else of_columns(kind, config.k)

        def spec(shape: tuple, index: Callable, transforms: tuple = ()) -> Any:
            return plgpu.BlockSpec(shape, index, transforms=transforms, delay_release=late)

        codes = weight_layout(product.rhs, config.k)
        least = pl.Element(max(config.m, LEAST))
        scales = {
            "lhs": spec((1, least), lambda k: (jax.lax.div(k, apart), row)),
            "rhs": spec((None, WIDTH, wide), lambda k: (expert, n, jax.lax.div(k, per))),
        }
        return [
            spec((None, WIDTH, config.k), lambda k: (expert, n, k), codes),
            spec((pl.Element(config.m), config.k), lambda k: (row, k), lines),
            *(scales[side] for side in grouped(product)),
        ]

    def __call__(self, index: Any, w: Any, x: Any, *rest: Any, memory: dict) -> Any:
        """Add the product of a step to the sums so far, which are the last argument."""
        *scales, total = rest
        if self.product.weight_only:
            return self._floats(index[0], w, x, scales, total, memory)
        if accumulator(self.product) is None:
            return total + self._product(index[0], w, x, scales)
        _add(w, x, total)
        plgpu.wgmma_wait(1)
        return total

    def _product(self, k: Any, w: Any, x: Any, scales: list) -> Any:
        """Multiply codes by codes, and scale what comes of it."""
        kind, m = jnp.int32 if self.product.integer else jnp.float32, self.config.m
        part = accumulated(partial(_add, w, x), (ROWS, m), kind).astype(jnp.float32)
        for side, scale in zip(grouped(self.product), scales, strict=True):
            if side == "lhs":
                part = part * _of_lhs(scale.at[0], m)
            else:
                part = part * spread(self._of_group(scale, k, 0), m)
        if scales:
            plgpu.commit_smem()  # the next copy into their memory comes after these reads
        return part

    def _floats(self, k: Any, w: Any, x: Any, scales: list, total: Any, memory: dict) -> Any:
        """Multiply codes, widened in registers, by floats."""
        weight = self.weight
        tile = widened(weight, w.at[_mine()])
        me = jax.lax.axis_index("warpgroup")
        scratch = memory["scratch"].at[me] if weight.simulated else None

        def scale(span: int) -> Any:
            return self._of_group(scales[0], k, span)

        if exact(self.product):
            return add_sums(weight, total, tile, x, scale, scratch)
        add_decoded(weight, total, tile, x, scale, scratch)
        return total

    def _of_group(self, scales: Any, k: Any, span: int) -> Any:
        """Load the scales of this warpgroup's rows for a span of a step."""
        group = jax.lax.div(k * self.config.k + span * self.weight.span, self.product.group)
        column = jax.lax.rem(group, jnp.int32(scales.shape[1]))
        return vector(self.weight, scales.at[_mine(), column])

    def scaled(self, total: Any, by_row: Any, late: list, expert: Any, row: Any) -> Any:
        """Multiply sums by the scales of rows, lhs first."""
        total, m = total.astype(jnp.float32), self.config.m
        if by_row is not None:
            total = total * _of_lhs(by_row, m)
        for scales in late:
            total = total * of_rows(self.weight, scales.at[expert, pl.ds(row, ROWS)], m)
        return total


def _of_lhs(scales: Any, m: int) -> Any:
    """Repeat the scales of `m` rows of lhs for every row of the weight."""
    return layouts.spread(scales.at[pl.ds(0, m)], (ROWS, m), 1)


def _add(w: Any, x: Any, acc: Any) -> None:
    """Begin to multiply this warpgroup's rows of the weight by codes."""
    plgpu.wgmma(acc, w.at[_mine()], x.transpose((1, 0)))


def _mine() -> Any:
    """Which rows of a tile of the weight this warpgroup multiplies."""
    return pl.ds(jax.lax.axis_index("warpgroup") * ROWS, ROWS)
