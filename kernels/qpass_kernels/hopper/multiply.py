"""Around the kernel of 8-bit codes: what takes its products, and how operands come and go.

Rows of lhs are made whole, it runs for every batch, and parts of K are added up.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from qpass_kernels.epilogue import finish
from qpass_kernels.hopper import batches
from qpass_kernels.hopper.pipeline import matrix
from qpass_kernels.hopper.ragged import HOPPER_RAGGED
from qpass_kernels.hopper.rows import HOPPER_ROWS
from qpass_kernels.hopper.work import Config, Work
from qpass_kernels.kernel import Kernel, Product, dtype, fuses_all
from qpass_kernels.reference import scaled

WHOLE = 8  # rows of codes that lie together in shared memory


def of_codes(
    name: str,
    meant_for: Callable[[Product], bool],
    supports: Callable[[Product], str | None],
    configs: Callable[[Product], tuple[Config, ...]],
) -> Kernel:
    """A kernel for products of codes; its fields mean what they do in `Kernel`.

    Integers are added up exactly with row scales, as in the reference; all else in float32, a tile
    of K after the other. `run` takes `config=`, one of `configs(product)` or None for the first,
    and `interpret=`, with which it runs on any platform (a `plgpu.InterpretGPUParams`).
    """

    def run(
        product: Product, *operands: Any, config: Config | None = None, interpret: Any = None
    ) -> Any:
        return multiply(Work(product, config or configs(product)[0]), operands, interpret)

    return Kernel(
        name,
        ("cuda",),
        supports,
        run,
        meant_for=meant_for,
        fuses=fuses_all,
        configs=configs,
        rows=HOPPER_ROWS,
        ragged=HOPPER_RAGGED,
    )


def multiply(work: Work, operands: tuple, interpret: Any) -> Any:
    """Compute a product `[B, M, N]`.

    Args:
        work: the product, and how it is cut up.
        operands: lhs, lhs scale, rhs, rhs scale, then what the epilogue asks for, as `Kernel.run`
            takes them.
        interpret: None, or a `plgpu.InterpretGPUParams`, with which it runs on any platform.
    """
    lhs, lhs_scale, rhs, rhs_scale, *extra = operands
    named = dict(zip(work.product.epilogue.operands, extra, strict=True))
    scales = {"lhs": _whole(lhs_scale), "rhs": rhs_scale}
    late = [named["bias"] if name == "bias" else scales[name][..., 0] for name in work.vectors]
    groups = [jnp.swapaxes(scales[side], 1, 2) for side in work.with_scale("group")]
    beside = [_whole(named[name]).astype(work.result) for name in work.epilogue.beside]
    arrays = (_whole(lhs), rhs, *late, *beside, *groups)
    parts = batches.each(matrix(work, interpret), arrays)[:, :, : work.product.m]
    if work.config.split > 1:
        total = _added(work, parts, lhs_scale, rhs_scale)
        return finish(work.product.epilogue, total, extra, dtype(work.product.out))
    return parts[:, 0].astype(dtype(work.product.out))


def _whole(x: Any) -> Any:
    """Fill rows up to a multiple of 8."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % WHOLE), (0, 0)))


def _added(work: Work, parts: Any, lhs_scale: Any, rhs_scale: Any) -> Any:
    """Add up parts of K `[B, split, M, N]` (integers exactly), and scale as the reference does."""
    total = jnp.sum(parts, axis=1, dtype=parts.dtype)
    rows = work.with_scale("row")
    by_row = jnp.ones((1, 1, 1), jnp.float32)
    return scaled(
        total,
        lhs_scale if "lhs" in rows else None,
        rhs_scale if "rhs" in rows else by_row,
    )
