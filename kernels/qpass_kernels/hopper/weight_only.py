"""Hopper: int8 and int4 weights times float activations, the weight widened in registers."""

from typing import Any

import jax.numpy as jnp

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.epilogue import NOTHING, finish
from qpass_kernels.hopper import batches, few_rows, many_rows
from qpass_kernels.hopper.device import MULTIPROCESSORS, on_hopper
from qpass_kernels.hopper.few_rows import FewRows
from qpass_kernels.hopper.layouts import LOADED
from qpass_kernels.hopper.many_rows import ManyRows
from qpass_kernels.hopper.ragged import HOPPER_RAGGED
from qpass_kernels.hopper.registers import Weight, ring_bytes
from qpass_kernels.hopper.warpgroups import ROWS, WIDTH
from qpass_kernels.kernel import (
    Kernel,
    Product,
    dtype,
    first_reason,
    fuses_all,
    result_type,
)

Config = FewRows | ManyRows
ALIGNED = 64  # elements: what copies of codes and of activations can be cut at
FEW = 64  # rows of activations up to which the weight is read once
MOST_OF_FEW, LEAST_OF_MANY = 1024, 17  # rows of activations between which both ways are tried
LEAST_STEPS_OF_SUMS = 32
SPLITS = (1, 2, 4, 8, 16)
RING = 96 * 1024  # bytes under way in a program of few rows


def meant_for(product: Product) -> bool:
    """Take weight-only products of integer codes."""
    return product.weight_only and product.rhs in LOADED


@on_hopper
def supports(product: Product) -> str | None:
    """Take bfloat16 and float16 activations, and weights whose rows copies can be made of."""
    why = first_reason(
        needs_numbers(product),
        (not product.weight_only, f"lhs is {product.lhs}: codes"),
        (product.rhs not in LOADED, f"rhs is {product.rhs}: it cannot be widened in registers"),
        (product.lhs == "float32", "lhs is float32: the tensor core would round it"),
    )
    return why or first_reason(
        (
            product.k % ALIGNED,
            f"k = {product.k} is no multiple of {ALIGNED}: every call would copy the weight",
        ),
        (product.n % 8, f"n = {product.n} is no multiple of 8: every call would copy the weight"),
        (
            product.grouped and product.group % 8,
            f"group {product.group} is no multiple of 8: no step would hold whole groups",
        ),
        (
            not configs(product),
            f"group {product.group} neither divides {ALIGNED} nor is a multiple of it",
        ),
    )


def configs(product: Product) -> tuple[Config, ...]:
    """Ways to cut a product up, the default first; what does not fit its sizes is left out."""
    few = [] if product.m > MOST_OF_FEW else _few(product)
    many = [] if product.m < LEAST_OF_MANY else _many(product)
    ordered = [*few, *many] if _is_few(product) else [*many, *few]
    return tuple(dict.fromkeys(config for config in ordered if config.fits(product)))


def run(
    product: Product,
    lhs: Any,
    lhs_scale: None,
    rhs: Any,
    rhs_scale: Any,
    *extra: Any,
    config: Config | None = None,
    interpret: Any = None,
) -> Any:
    """Compute the product; sums are float32.

    `interpret`: a `plgpu.InterpretGPUParams` runs on any platform; it knows no operands in
    registers, so that the widened weight goes through shared memory there.
    """
    config = config or configs(product)[0]
    result = result_type(product, (lhs, rhs, rhs_scale))
    group = product.group if product.grouped else None
    weight = Weight(product.rhs, dtype(product.lhs), config.k, group, interpret is not None)
    split = isinstance(config, FewRows) and config.split > 1
    epilogue = NOTHING if split else product.epilogue
    how = (weight, result.dtype, epilogue, interpret)
    if isinstance(config, FewRows):
        multiply = few_rows.multiply(config, *how)
    else:
        multiply = many_rows.multiply(config, *how)
    beside = () if split else _beside(product, extra, config)
    operands = (_aligned(lhs), rhs, _scales(rhs_scale, config, group), *beside)
    out = batches.each(multiply, operands)
    if isinstance(config, FewRows):
        out = jnp.sum(out, 1, dtype=jnp.float32) if split else out[:, 0]
    out = out[:, : product.m, : product.n]
    return finish(product.epilogue, out, extra, result.dtype) if split else out.astype(result.dtype)


def _is_few(product: Product) -> bool:
    """Whether tiles of many rows would leave most of the multiprocessors without one."""
    tiles = -(-product.m // 128) * -(-product.n // WIDTH) * product.batch
    return product.m <= FEW or tiles < MULTIPROCESSORS // 2


def _few(product: Product) -> list[FewRows]:
    """Cut the weight so finely that all multiprocessors read it, with enough under way."""
    m = next((size for size in (8, 16, 32) if size >= product.m), FEW)
    tiles = -(-product.n // ROWS) * -(-product.m // m) * product.batch
    split = next((s for s in SPLITS if tiles * s > MULTIPROCESSORS * 3 // 4), SPLITS[-1])
    warpgroups = 4 if tiles * split <= MULTIPROCESSORS else 2
    k = 128 if m < FEW else 64
    cuts = [
        *((k, warpgroups, s) for s in (split, split * 2, split // 2, 1) if s),
        *((k, w, split) for w in (4, 2, 1)),
        *((64, w, split) for w in (4, 2, 1)),
        (64, 1, 1),
    ]
    return [FewRows(m, k, _steps(product, m, k, w), w, s) for k, w, s in cuts]


def _steps(product: Product, m: int, k: int, warpgroups: int) -> int:
    """Have as much under way as leaves room for another program on the multiprocessor."""
    return max(2, min(8, RING // (warpgroups * ring_bytes(product, ROWS, m, k))))


def _many(product: Product) -> list[ManyRows]:
    """Large tiles, that activations are read seldom; sums of groups need registers of their own."""
    large, small = ManyRows(256, 64, 4, "codes"), ManyRows(128, 64, 6, "codes")
    if not product.grouped:
        return [large, small]
    # the compiler unrolls shorter loops over sums until registers spill
    sums = [ManyRows(128, 128, 4), ManyRows(128, 64, 6)]
    sums = [config for config in sums if product.k >= config.k * LEAST_STEPS_OF_SUMS]
    return [*sums, large, small]


def _aligned(x: Any) -> Any:
    """Fill the rows of activations up to whole lines of 8, unless there is only one line."""
    rest = -x.shape[1] % 8 if x.shape[1] > 8 else 0
    return jnp.pad(x, ((0, 0), (0, rest), (0, 0))) if rest else x


def _beside(product: Product, extra: tuple, config: Config) -> list[Any]:
    """Bring what the epilogue asks for to the rows of activations and to whole tiles of N."""
    rest = ((0, -product.n % _tile_of_n(config)),)
    bias = [jnp.pad(x, ((0, 0), *rest)) for x in extra[: product.epilogue.bias]]
    wide = [_aligned(x).astype(dtype(product.out)) for x in extra[product.epilogue.bias :]]
    return bias + [jnp.pad(x, ((0, 0), (0, 0), *rest)) for x in wide]


def _tile_of_n(config: Config) -> int:
    return ROWS if isinstance(config, FewRows) else WIDTH


def _scales(scales: Any, config: Config, group: int | None) -> Any:
    """Bring scales `[B, N, G]` to whole tiles of N, and to the order in which they are read.

    Few rows read them as they are: turning them would take a good part of the time.
    """
    few = isinstance(config, FewRows)
    rows = -scales.shape[1] % _tile_of_n(config)
    columns = -scales.shape[2] % 4 if few and group else 0
    if rows or columns:
        scales = jnp.pad(scales, ((0, 0), (0, rows), (0, columns)))
    if group is None:
        return scales[..., 0]
    return scales if few else jnp.swapaxes(scales, 1, 2)


HOPPER_WEIGHT_ONLY = Kernel(
    "hopper_weight_only",
    ("cuda",),
    supports,
    run,
    meant_for=meant_for,
    fuses=fuses_all,
    configs=configs,
    ragged=HOPPER_RAGGED,
)
