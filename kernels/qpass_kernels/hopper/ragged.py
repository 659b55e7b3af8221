"""Which ragged products the kernel for Hopper takes, and what is done with their types."""

from typing import Any

import jax
import jax.numpy as jnp

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.hopper.device import are_codes, on_hopper
from qpass_kernels.hopper.layouts import LOADED
from qpass_kernels.hopper.ragged_kernel import (
    LINE,
    Arithmetic,
    Config,
    multiply,
)
from qpass_kernels.hopper.ragged_steps import WINDOW, Steps, accumulator, window
from qpass_kernels.hopper.registers import MEMORY, Weight
from qpass_kernels.hopper.warpgroups import CONSUMERS, LEAST, PIECE, ROWS, WIDTH
from qpass_kernels.kernel import dtype, first_reason
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct
from qpass_kernels.ragged_tiles import cut
from qpass_kernels.reference import OVERFLOW, is_safe

SUMS = 128  # rows of lhs of which a warpgroup holds the sums of a step beside those of all


@on_hopper
def supports(product: RaggedProduct) -> str | None:
    """Take 8-bit codes of one kind, and int4 and int8 weights beside 16-bit floats."""
    codes = are_codes(product)
    widened = product.lhs in ("bfloat16", "float16") and product.rhs in LOADED
    return first_reason(
        needs_numbers(product),
        (not codes and not widened, f"{product.lhs} x {product.rhs}"),
        (product.k % 64, f"k = {product.k} is no multiple of 64"),
        (product.n % 8, f"n = {product.n} is no multiple of 8: the result is not aligned"),
        (product.integer and not product.grouped and not is_safe(product.k), OVERFLOW),
    ) or first_reason(*_groups(product, 64 if codes else 16))


def _groups(product: RaggedProduct, least: int) -> tuple[tuple[Any, str], ...]:
    group = product.group
    return (
        (product.grouped and group % least, f"group {group} is no multiple of {least}"),
        (
            product.grouped and 64 % group and group % 64,
            f"group {group} neither divides 64 nor is a multiple of it",
        ),
    )


def configs(product: RaggedProduct) -> tuple[Config, ...]:
    """List the settings of `run`, the default first: about as many rows as an expert has."""
    k = _step(product)
    most = SUMS if accumulator(product) is None else 256
    rows = -(-product.m // product.experts)
    best = next((m for m in (8, 16, 32, 64, 128) if m >= rows), 128)
    sizes = (best, *(m for m in (best // 2, best * 2) if 8 <= m <= most))
    found = (Config(m, k, _steps(product, m, k)) for m in sizes)
    return tuple(config for config in found if config.steps > 1)


def _step(product: RaggedProduct) -> int:
    """Elements of K in a step: whole lines of shared memory, and within a group or whole groups."""
    long = product.grouped and product.group % 128
    if product.weight_only:  # int8 widened to 16 bits leaves no registers for longer steps
        whole = product.rhs == "int4" and product.grouped and product.k % 128 == 0
        return 128 if whole and not long else 64
    return 64 if long else 128


def _steps(product: RaggedProduct, m: int, k: int) -> int:
    wide = max(WINDOW, k // product.group)
    scales = (max(m, LEAST) + WIDTH * wide) * 4 if product.grouped else 0
    step = (WIDTH * _bits(product.rhs) + m * _bits(product.lhs)) // 8 * k + scales
    pieces = CONSUMERS * (min(m, PIECE) + 2 * LINE) * ROWS * 4
    return min(8, (MEMORY - pieces) // step)


def _bits(name: str) -> int:
    return jax.dtypes.itemsize_bits(dtype(name))


def run(
    product: RaggedProduct,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    group_sizes: Any,
    config: Config | None = None,
    interpret: Any = None,
) -> Any:
    """Compute the product. int8 x int8 with row scales exactly; else sums are float32.

    Weights in groups shorter than 64 are rounded to the type of lhs once they are scaled.

    `config`: one of `configs(product)`; None: the first. `interpret`: a `plgpu.InterpretGPUParams`
    runs on any platform.
    """
    config = config or configs(product)[0]
    group = product.group if product.grouped else None
    kind = dtype(product.lhs)
    weight = Weight(product.rhs, kind, config.k, group, interpret is not None)
    steps = Steps(product, config, weight)
    copied, late = [rhs, lhs], []
    if product.lhs_scale == "group":
        copied.append(_whole(lhs_scale.T, 4))
    elif product.lhs_scale == "row":
        late.append(lhs_scale[:, 0])
    if product.rhs_scale == "group":
        copied.append(_whole(rhs_scale, window(product, config)))
    else:
        late.append(_whole(rhs_scale[..., 0], WIDTH))
    arithmetic = Arithmetic(
        specs=steps.specs,
        step=steps,
        sums=accumulator(product),
        scaled=steps.scaled,
        by_row=product.lhs_scale == "row",
    )
    shape = (product.m, product.n, product.k)
    kernel = multiply(config, weight, arithmetic, shape, dtype(product.out), interpret)
    return kernel(cut(group_sizes, product.m, config.m), copied, late)


def _whole(x: Any, multiple: int) -> Any:
    """Fill the last axis up to a multiple, where it is none."""
    rest = -x.shape[-1] % multiple
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, rest)]) if rest else x


HOPPER_RAGGED = RaggedMatmul("hopper_ragged", supports, run, skips=True, configs=configs)
