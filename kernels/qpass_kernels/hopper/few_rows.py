"""Hopper, weight-only, few rows of activations: reading the weight is what takes the time.

The operands are swapped: a tile is 64 rows of the weight by 8 to 64 rows of activations. The
warpgroups of a program take turns along K, each with copies of its own under way, so that the
codes of one are widened while those of the others arrive. Where the weight has too few rows to
give every multiprocessor some, K is split over programs, and the parts are added up afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.epilogue import Epilogue
from qpass_kernels.hopper.registers import (
    MEMORY,
    Weight,
    add_sums,
    float_layout,
    of_rows,
    read_back,
    ring_bytes,
    store,
    turned,
    vector,
    weight_layout,
    widened,
    zeros,
)
from qpass_kernels.hopper.slot import Slot, followed
from qpass_kernels.hopper.warpgroups import LANE, ROWS
from qpass_kernels.kernel import Product

MOST_SCALES = 256  # numbers along an axis that one copy takes
MOST_SUMS = 256  # columns of sums of a step that the registers of a program hold


@dataclass(frozen=True)
class FewRows:
    """How a product of few rows is cut up.

    Attributes:
        m: rows of activations in a tile: 8, 16, 32 or 64.
        k: elements of K in a step.
        steps: copies that each warpgroup has under way.
        warpgroups: of a program, each with every so-manieth part of K.
        split: programs that share K.
    """

    m: int
    k: int
    steps: int
    warpgroups: int
    split: int = 1

    def share(self, k: int) -> int:
        """Elements of K that each warpgroup multiplies."""
        return k // (self.warpgroups * self.split)

    def scales(self, k: int, group: int) -> int:
        """Scales of a row that a warpgroup copies: multiples of 16 bytes."""
        share = self.share(k)
        return -(-(share // group + (share % group > 0)) // 4) * 4

    def fits(self, product: Product) -> bool:
        """Whether steps cut K and its groups without a rest, and shared memory holds them."""
        k, group = product.k, product.group
        whole = k % (self.k * self.warpgroups * self.split) == 0
        if not whole or self.memory(product) > MEMORY:
            return False
        if not product.grouped:
            return True
        nested = self.k % group == 0 or group % self.k == 0
        started = self.share(k) % group == 0 or group % self.share(k) == 0
        if group % 16 or not nested or not started:
            return False
        sums = max(1, self.k // group) * self.m
        return sums <= MOST_SUMS // self.warpgroups and self.scales(k, group) <= MOST_SCALES

    def memory(self, product: Product) -> int:
        """Bytes of shared memory, but for barriers."""
        step = ring_bytes(product, ROWS, self.m, self.k)
        scales = self.scales(product.k, product.group) if product.grouped else 0
        return self.warpgroups * (self.steps * step + ROWS * 4 * (scales + self.m))


def multiply(
    config: FewRows, weight: Weight, out: Any, epilogue: Epilogue, interpret: Any
) -> Callable[..., Any]:
    """Build the kernel: (x `[M, K]`, codes `[N, K]`, scales `[N, G]` or `[N]`) -> `[M, N]`.

    With `split` the result is `[split, M, N]` in float32, and there is no epilogue. N a multiple of
    64 or of 8 in codes; scales, the result and what the epilogue asks for (bias `[N]` in float32,
    then `[M, N]` in the type of the result) have whole tiles of N.
    """

    def run(x: Any, codes: Any, scales: Any, *extra: Any) -> Any:
        n = scales.shape[0]
        body = _Body(config, weight, codes.shape[1], epilogue)
        kind = jnp.float32 if config.split > 1 else out
        return plgpu.kernel(
            body,
            out_type=jax.ShapeDtypeStruct((config.split, x.shape[0], n), kind),
            scratch_types=_memory(config, weight, codes.shape[1], kind, epilogue),
            grid=(n // ROWS, -(-x.shape[0] // config.m), config.split),
            grid_names=("n", "m", "part"),
            num_threads=config.warpgroups,
            thread_name="warpgroup",
            compiler_params=LANE,
            interpret=interpret,
            kernel_name=f"qpass_few_rows_{weight.codes}",
        )(x, codes, scales, *extra)

    return run


def _memory(
    config: FewRows, weight: Weight, k: int, out: Any, epilogue: Epilogue
) -> dict[str, Any]:
    ring = (config.warpgroups, config.steps)
    memory = {
        "codes": plgpu.SMEM(
            (*ring, ROWS, config.k), weight.codes, transforms=weight_layout(weight.codes, config.k)
        ),
        "x": plgpu.SMEM(
            (*ring, config.m, config.k),
            weight.kind,
            transforms=float_layout(weight.kind, weight.span),
        ),
        "ready": plgpu.Barrier(num_arrivals=2, num_barriers=config.warpgroups * config.steps),
        "out": plgpu.SMEM((config.m, ROWS), out, transforms=float_layout(out, ROWS)),
    }
    if weight.group is not None:
        window = config.scales(k, weight.group)
        memory["scales"] = plgpu.SMEM((config.warpgroups, ROWS, window), jnp.float32)
        memory["scaled"] = plgpu.Barrier(num_barriers=config.warpgroups)
    if config.warpgroups > 1:
        layout = float_layout(jnp.float32, ROWS)
        shape = (config.warpgroups - 1, config.m, ROWS)
        memory["sums"] = plgpu.SMEM(shape, jnp.float32, transforms=layout)
        memory["summed"] = plgpu.Barrier(num_arrivals=config.warpgroups)
    if epilogue.beside:
        memory["beside"] = plgpu.Barrier()
    if weight.simulated:
        shape = (config.warpgroups, ROWS, config.k)
        memory["scratch"] = plgpu.SMEM(shape, weight.kind)
    return memory


@dataclass(frozen=True)
class _Body:
    """What a program does; called by each of its warpgroups."""

    config: FewRows
    weight: Weight
    k: int
    epilogue: Epilogue

    def __call__(self, x: Any, codes: Any, scales: Any, /, *refs: Any, **memory: Any) -> None:
        *extra, out = refs
        part, m = jax.lax.axis_index("part"), jax.lax.axis_index("m")
        here = pl.ds(m * self.config.m, self.config.m)
        there = pl.ds(jax.lax.axis_index("n") * ROWS, ROWS)
        total = self._accumulate(x.at[here], codes.at[there], scales.at[there], memory)
        if self.weight.group is None:
            total = total * of_rows(self.weight, scales.at[there], self.config.m)
        bias = extra[0].at[there] if self.epilogue.bias else None
        beside = [x.at[here, there] for x in extra[self.epilogue.bias :]]
        finish = partial(self._finish, memory, bias, beside, out.at[part, here, there])
        self._store(total, memory, finish)

    def _accumulate(self, x: Any, codes: Any, scales: Any, memory: dict) -> Any:
        """Multiply this warpgroup's share of K."""
        config, weight, me = self.config, self.weight, jax.lax.axis_index("warpgroup")
        count = config.share(self.k) // config.k
        depth = min(config.steps, count)
        first = (jax.lax.axis_index("part") * config.warpgroups + me) * count
        scale = self._scales(scales, memory, me, first * config.k)  # on their way

        def fetch(step: Any) -> None:
            slot = jax.lax.rem(step, depth)
            columns = pl.ds((first + step) * config.k, config.k)
            ready = memory["ready"].at[me * config.steps + slot]
            for source, name in ((codes, "codes"), (x, "x")):
                plgpu.copy_gmem_to_smem(source.at[:, columns], memory[name].at[me, slot], ready)

        def step(index: Any, total: Any) -> Any:
            slot = jax.lax.rem(index, depth)
            plgpu.barrier_wait(memory["ready"].at[me * config.steps + slot])
            tile = widened(weight, memory["codes"].at[me, slot])
            scratch = memory["scratch"].at[me] if weight.simulated else None
            at = memory["x"].at[me, slot]
            total = add_sums(weight, total, tile, at, lambda i: scale(index, i), scratch)
            pl.when(index + depth < count)(lambda: fetch(index + depth))
            return total

        for index in range(depth):
            fetch(jnp.int32(index))
        if weight.group is not None:
            plgpu.barrier_wait(memory["scaled"].at[me])
        return jax.lax.fori_loop(0, count, step, zeros(weight, config.m))

    def _scales(self, scales: Any, memory: dict, me: Any, start: Any) -> Callable[..., Any]:
        """Start to copy the scales of this share of K; say which belong to a span of a step."""
        group, k = self.weight.group, self.config.k
        if group is None:
            return lambda index, span: None
        window = memory["scales"].at[me]
        columns = pl.ds(jax.lax.div(start, group), window.shape[1])
        plgpu.copy_gmem_to_smem(scales.at[:, columns], window, memory["scaled"].at[me])

        def scale(index: Any, span: int) -> Any:
            column = jax.lax.div(index * k + span * self.weight.span, group)
            return vector(self.weight, window.at[:, column])

        return scale

    def _finish(self, memory: dict, bias: Any, beside: list, out: Any, values: Any) -> None:
        """Apply the epilogue to a tile, and write it out."""
        slot = Slot(memory["out"], memory.get("beside"), True, self.weight.simulated)
        if self.epilogue:
            along = partial(of_rows, self.weight, bias, self.config.m)
            values = followed(self.epilogue, values, along, beside, slot)
        slot.put(values.astype(out.dtype))
        plgpu.copy_smem_to_gmem(slot.piece, out)
        plgpu.wait_smem_to_gmem(0)

    def _store(self, total: Any, memory: dict, write: Callable[[Any], None]) -> None:
        """Add up what the warpgroups have, in their order, and write it out."""
        me, last = jax.lax.axis_index("warpgroup"), self.config.warpgroups - 1
        if not last:
            write(total)
            return

        @pl.when(me < last)
        def _() -> None:
            store(self.weight, total, memory["sums"].at[me])
            plgpu.commit_smem()
            plgpu.barrier_arrive(memory["summed"])

        @pl.when(me == last)
        def _() -> None:
            plgpu.barrier_arrive(memory["summed"])
            plgpu.barrier_wait(memory["summed"])
            whole = turned(self.weight, total)
            for other in range(last):
                whole = whole + read_back(self.weight, memory["sums"].at[other])
            write(whole)
