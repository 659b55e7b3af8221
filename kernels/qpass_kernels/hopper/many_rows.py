"""Hopper, weight-only, many rows of activations: the tensor core is what takes the time.

One warpgroup copies; two multiply, each its own 64 rows of the weight by the same rows of
activations, so that one widens codes while the tensor core works for the other. A program stays on
its multiprocessor and takes one tile of the result after another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.epilogue import Epilogue
from qpass_kernels.hopper.device import MULTIPROCESSORS
from qpass_kernels.hopper.registers import (
    MEMORY,
    Weight,
    add_decoded,
    add_sums,
    float_layout,
    of_rows,
    ring_bytes,
    vector,
    weight_layout,
    widened,
    zeros,
)
from qpass_kernels.hopper.slot import Slot, followed
from qpass_kernels.hopper.warpgroups import (
    CONSUMERS,
    LANE,
    PIECE,
    ROWS,
    WIDTH,
    accumulated,
    nothing,
)
from qpass_kernels.kernel import Product

COPYING = 40  # registers of a thread that only issues copies
LARGEST_SUMS = 128  # rows of activations of which a warpgroup holds two tiles of sums


@dataclass(frozen=True)
class ManyRows:
    """How a product of many rows is cut up.

    Attributes:
        m: rows of activations in a tile: 64, 128 or 256.
        k: elements of K in a step.
        steps: copies under way.
        scaled: what group scales multiply: "sums" of exact codes, in registers of their own for
            every step, or "codes", rounded to the type of the activations.
        programs: one for every multiprocessor.
        band: tiles of activations that programs share before they go on to more of the weight.
    """

    m: int
    k: int
    steps: int
    scaled: Literal["sums", "codes"] = "sums"
    programs: int = MULTIPROCESSORS
    band: int = 8

    def fits(self, product: Product) -> bool:
        """Whether steps cut K and its groups without a rest, and shared memory holds them."""
        group = product.group
        ring = self.steps * ring_bytes(product, WIDTH, self.m, self.k)
        if product.k % self.k or ring + CONSUMERS * PIECE * ROWS * 4 > MEMORY:
            return False
        if not product.grouped:
            return True
        return (self.k % group == 0 or group % self.k == 0) and self._sums_fit(group)

    def _sums_fit(self, group: int) -> bool:
        """Whether registers hold the sums of each of a step's groups beside those of all."""
        return self.scaled == "codes" or (group >= self.k and self.m <= LARGEST_SUMS)


def multiply(
    config: ManyRows, weight: Weight, out: Any, epilogue: Epilogue, interpret: Any
) -> Callable[..., Any]:
    """Build the kernel: (x `[M, K]`, codes `[N, K]`, scales `[G, N]` or `[N]`) -> `[M, N]`.

    N a multiple of 128, or of 8 in codes; scales, the result and what the epilogue asks for (bias
    `[N]` in float32, then `[M, N]` in the type of the result) have whole tiles of N.
    """

    def run(x: Any, codes: Any, scales: Any, *extra: Any) -> Any:
        shape = (x.shape[0], scales.shape[-1])
        memory: dict[str, Any] = {
            "out": plgpu.SMEM(
                (CONSUMERS, min(PIECE, config.m), ROWS), out, transforms=float_layout(out, ROWS)
            )
        }
        if epilogue.beside:
            memory["beside"] = plgpu.Barrier(num_barriers=CONSUMERS)
        if weight.simulated:
            memory["scratch"] = plgpu.SMEM((CONSUMERS, ROWS, config.k), weight.kind)
        return plgpu.kernel(
            _Body(config, weight, codes.shape[1], epilogue),
            out_type=jax.ShapeDtypeStruct(shape, out),
            scratch_types=memory,
            grid=(min(config.programs, _count(config, shape)),),
            grid_names=("program",),
            num_threads=CONSUMERS + 1,
            thread_name="warpgroup",
            compiler_params=LANE,
            interpret=interpret,
            kernel_name=f"qpass_many_rows_{weight.codes}",
        )(x, codes, scales, *extra)

    return run


def _count(config: ManyRows, shape: tuple[int, ...]) -> int:
    return -(-shape[0] // config.m) * -(-shape[1] // WIDTH)


@dataclass(frozen=True)
class _Body:
    """What a program does; called by each of its warpgroups."""

    config: ManyRows
    weight: Weight
    k: int
    epilogue: Epilogue

    def __call__(self, x: Any, codes: Any, scales: Any, /, *rest: Any, **memory: Any) -> None:
        out = rest[-1]
        refs = (codes, x) if self.weight.group is None else (codes, x, scales)
        idle = self._pipeline(nothing, nothing, 0, 0)
        tiles = (-(-out.shape[0] // self.config.m), -(-out.shape[1] // WIDTH))

        def loop(allocations: Any) -> None:
            @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="program")
            def _(info: plgpu.NDLoopInfo) -> None:
                m, n = plgpu.planar_snake(info.index[0], tiles, 0, self.config.band)
                finish = partial(self._tile, scales, rest, memory, m, n)
                step = partial(self._step, memory)
                self._pipeline(step, finish, m, n)(*refs, allocations=allocations)

        pl.run_scoped(loop, idle.get_allocations(*refs), collective_axes="warpgroup")
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def _pipeline(self, step: Callable, finish: Callable, m: Any, n: Any) -> Any:
        """Walk over K for one tile of the result."""
        config, weight = self.config, self.weight
        specs = [
            plgpu.BlockSpec(
                (WIDTH, config.k),
                lambda k: (n, k),
                transforms=weight_layout(weight.codes, config.k),
            ),
            plgpu.BlockSpec(
                (config.m, config.k),
                lambda k: (m, k),
                transforms=float_layout(weight.kind, weight.span),
            ),
        ]
        if weight.group is not None:
            per = max(1, weight.group // config.k)
            block = (config.k // weight.span, WIDTH)
            specs.append(plgpu.BlockSpec(block, lambda k: (jax.lax.div(k, jnp.int32(per)), n)))
        return plgpu.emit_pipeline_warp_specialized(
            step,
            grid=(self.k // config.k,),
            memory_registers=COPYING,
            in_specs=specs,
            max_concurrent_steps=config.steps,
            wg_axis="warpgroup",
            num_compute_wgs=CONSUMERS,
            compute_context=finish,
        )

    @property
    def _exact(self) -> bool:
        return self.weight.group is not None and self.config.scaled == "sums"

    def _step(self, memory: dict, _: Any, codes: Any, x: Any, *rest: Any) -> Any:
        """Multiply a step; the sums so far are the last argument."""
        *scales, total = rest
        me = jax.lax.axis_index("warpgroup")
        mine = pl.ds(me * ROWS, ROWS)
        tile = widened(self.weight, codes.at[mine])
        scratch = memory["scratch"].at[me] if self.weight.simulated else None

        def scale(span: int) -> Any:
            return vector(self.weight, scales[0].at[span, mine])

        add = add_sums if self._exact else add_decoded
        added = add(self.weight, total, tile, x, scale, scratch)
        return added if self._exact else total

    def _tile(
        self, scales: Any, rest: tuple, memory: dict, m: Any, n: Any, pipeline: Callable
    ) -> None:
        """Have one tile of the result computed, and store it; it is the last of `rest`."""
        total = self._total(pipeline)
        me = jax.lax.axis_index("warpgroup")
        there = pl.ds(n * WIDTH + me * ROWS, ROWS)
        if self.weight.group is None:
            total = total * of_rows(self.weight, scales.at[there], self.config.m)
        arrived = memory["beside"].at[me] if self.epilogue.beside else None
        slot = Slot(memory["out"].at[me], arrived, True, self.weight.simulated)
        self._store(total, slot, rest, m, there)

    def _total(self, pipeline: Callable) -> Any:
        if self._exact:
            return pipeline(zeros(self.weight, self.config.m))
        return accumulated(pipeline, (ROWS, self.config.m), jnp.float32)

    def _store(self, total: Any, slot: Slot, rest: tuple, m: Any, there: Any) -> None:
        """Write a tile piece by piece, after what follows the product."""
        *extra, out = rest
        height = slot.piece.shape[0]
        bias = extra[0].at[there] if self.epilogue.bias else None
        along = partial(of_rows, self.weight, bias, height)
        for start in range(0, self.config.m, height):
            here = pl.ds(m * self.config.m + start, height)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            part = total[:, start : start + height]
            if self.epilogue:
                beside = [x.at[here, there] for x in extra[self.epilogue.bias :]]
                part = followed(self.epilogue, part, along, beside, slot)
            slot.put(part.astype(out.dtype))
            plgpu.copy_smem_to_gmem(slot.piece, out.at[here, there])
