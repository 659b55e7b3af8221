"""The tiled product that the Hopper kernels share: pipeline, accumulator, scales at the end.

The operands are swapped: the weight is the left side of the tensor core's product, so that a tile
is 64 or 128 weight rows by as few as 8 rows of lhs, and decoded weights can come from registers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from qpass_kernels.epilogue import Epilogue
from qpass_kernels.hopper import batches
from qpass_kernels.hopper.layouts import of_columns, spread
from qpass_kernels.hopper.slot import Slot, followed
from qpass_kernels.hopper.warpgroups import accumulated
from qpass_kernels.kernel import Product, dtype, result_type

STEPS = 4  # tiles along K in flight: 4 of the largest fill 128 of 227 KB shared memory


@dataclass(frozen=True)
class Tiles:
    """Tile sizes of M, N and K, and the sizes filled up to whole tiles.

    M and N and K are padded outside of the kernel: lhs always cheaply, the weight (a copy on every
    call) only where its N or K is no multiple of 64.
    """

    m: int
    n: int
    k: int
    padded_m: int
    padded_n: int
    padded_k: int


def choose_tiles(product: Product, max_m: int, max_k: int) -> Tiles:
    """Take the largest tiles that waste nothing of the weight."""
    m = next((size for size in (8, 16, 32, 64) if size >= min(product.m, max_m)), max_m)
    n = 128 if product.n % 128 == 0 else 64
    whole_k = product.groups * product.group if product.grouped else product.k
    k = max_k if whole_k % max_k == 0 else 64
    return Tiles(m, n, k, _up(product.m, m), _up(product.n, n), _up(whole_k, k))


@dataclass(frozen=True)
class Body:
    """What a kernel does with a tile of K.

    Attributes:
        step: (acc, w `[n, k]`, x `[m, k]`, group scales `[g, n]` or None, scratch) -> None; adds
            `w @ x.T` to acc. The references are in shared memory.
        accumulator: int32 or float32.
        scratch: shared memory that a step needs, or none.
        in_flight: products still running when a step returns (0 where its operand is registers).
    """

    step: Callable[..., None]
    accumulator: Any
    scratch: Any = None
    in_flight: int = 0


def call(product: Product, tiles: Tiles, body: Body, operands: tuple, interpret: Any) -> Any:
    """Pad, run the kernel for every batch, cut the result to size: `[B, M, N]`."""
    result = result_type(product, operands)
    lhs, lhs_scale, rhs, rhs_scale, *extra = operands
    if lhs_scale is None:
        lhs_scale = jnp.ones((product.batch, product.m, 1), jnp.float32)
    m, n, k = tiles.padded_m, tiles.padded_n, tiles.padded_k
    row = product.rhs_scale == "row"
    rhs_scale = rhs_scale if row else _fit(rhs_scale, (n, k // product.group))
    arrays = (
        _fit(lhs, (m, k)),
        _fit(rhs, (n, k)),
        _fit(lhs_scale, (m, 1))[..., 0],
        _fit(rhs_scale, (n, 1))[..., 0] if row else jnp.swapaxes(rhs_scale, 1, 2),
        *(_fit(x[..., None], (n, 1))[..., 0] for x in extra[: product.epilogue.bias]),
        *(_fit(x, (m, n)).astype(result.dtype) for x in extra[product.epilogue.bias :]),
    )
    whole = replace(product, m=m, n=n, k=k)
    out = batches.each(_matrix(whole, tiles, body, interpret), arrays)
    return out[:, : product.m, : product.n].astype(result.dtype)


def _matrix(product: Product, tiles: Tiles, body: Body, interpret: Any) -> Callable[..., Any]:
    """Build the kernel for one matrix: (x [M, K], w [N, K], x scale [M], w scale) -> [M, N].

    Then what the epilogue asks for: bias [N], the others [M, N] in the type of the result.
    """
    row, epilogue = product.rhs_scale == "row", product.epilogue

    def kernel(x: Any, w: Any, x_scale: Any, w_scale: Any, *rest: Any, **memory: Any) -> None:
        *extra, out = rest
        here = pl.ds(jax.lax.axis_index("m") * tiles.m, tiles.m)
        there = pl.ds(jax.lax.axis_index("n") * tiles.n, tiles.n)
        plgpu.copy_gmem_to_smem(x_scale.at[here], memory["m_scale"], memory["ready"])
        if row:
            plgpu.copy_gmem_to_smem(w_scale.at[there], memory["n_scale"], memory["ready"])
        if epilogue.bias:
            plgpu.copy_gmem_to_smem(extra[0].at[there], memory["bias"], memory["ready"])
        inputs = (w, x) if row else (w, x, w_scale)
        multiply = partial(_multiply, product, tiles, body, memory, inputs)
        total = accumulated(multiply, (tiles.n, tiles.m), body.accumulator).astype(jnp.float32)
        plgpu.barrier_wait(memory["ready"])
        total = total * spread(memory["m_scale"], total.shape, 1)
        if row:
            total = total * spread(memory["n_scale"], total.shape, 0)
        refs = (extra, out, here, there)
        _finish(epilogue, total, memory, refs, interpret)

    memory = {
        "tile": plgpu.SMEM((tiles.m, tiles.n), dtype(product.out)),
        "m_scale": plgpu.SMEM((tiles.m,), jnp.float32),
        "ready": plgpu.Barrier(num_arrivals=1 + row + epilogue.bias),
    }
    if epilogue.bias:
        memory["bias"] = plgpu.SMEM((tiles.n,), jnp.float32)
    if epilogue.beside:
        memory["beside"] = plgpu.Barrier()
    if row:
        memory["n_scale"] = plgpu.SMEM((tiles.n,), jnp.float32)
    if body.scratch is not None:
        memory["scratch"] = body.scratch
    return plgpu.kernel(
        kernel,
        out_type=jax.ShapeDtypeStruct((product.m, product.n), dtype(product.out)),
        scratch_types=memory,
        grid=(product.n // tiles.n, product.m // tiles.m),
        grid_names=("n", "m"),
        interpret=interpret,
        kernel_name=f"qpass_{product.lhs}_{product.rhs}",
    )


def _finish(
    epilogue: Epilogue, total: Any, memory: dict, refs: tuple[Any, ...], interpret: Any
) -> None:
    """Apply the epilogue to a tile `[n, m]`, and write it turned to `[m, n]`."""
    extra, out, here, there = refs
    slot = Slot(memory["tile"], memory.get("beside"), True, interpret is not None)
    if epilogue:
        beside = [x.at[here, there] for x in extra[epilogue.bias :]]
        bias = partial(spread, memory.get("bias"), total.shape, 0)
        total = followed(epilogue, total, bias, beside, slot)
    slot.put(total.astype(out.dtype))
    plgpu.copy_smem_to_gmem(slot.piece, out.at[here, there])
    plgpu.wait_smem_to_gmem(0)


def _multiply(
    product: Product, tiles: Tiles, body: Body, memory: dict, refs: tuple, acc: Any
) -> None:
    """Walk over K, the next tiles under way while one is multiplied."""
    n, m = jax.lax.axis_index("n"), jax.lax.axis_index("m")

    def spec(shape: tuple, index: Callable, kind: Any) -> Any:
        transforms = of_columns(kind, tiles.k)
        return plgpu.BlockSpec(shape, index, transforms=transforms, delay_release=body.in_flight)

    def step(_: Any, w: Any, x: Any, scale: Any = None) -> None:
        body.step(acc, w, x, scale, memory.get("scratch"))
        plgpu.wgmma_wait(body.in_flight)

    specs = [
        spec((tiles.n, tiles.k), lambda k: (n, k), refs[0].dtype),
        spec((tiles.m, tiles.k), lambda k: (m, k), refs[1].dtype),
    ]
    if product.rhs_scale == "group":
        rows, per = max(1, tiles.k // product.group), max(1, product.group // tiles.k)
        specs.append(plgpu.BlockSpec((rows, tiles.n), lambda k: (jax.lax.div(k, per), n)))
    grid = (product.k // tiles.k,)
    plgpu.emit_pipeline(step, grid=grid, in_specs=specs, max_concurrent_steps=STEPS)(*refs)


def _fit(x: Any, shape: tuple[int, int]) -> Any:
    """Fill the last two axes up with zeros."""
    widths = [(0, want - have) for want, have in zip(shape, x.shape[1:], strict=True)]
    return jnp.pad(x, ((0, 0), *widths)) if any(after for _, after in widths) else x


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
