"""The compiled XLA path for CPU.

A product of integer codes is one int8 product, which XLA runs 2 to 4 times as fast as float32.
Anything else is multiplied in floats, and the weight decoded tile by tile: a whole decoded copy
costs more than the product (one row by int8 `[8192, 2048]`: 21 ms whole, 1.9 ms by tiles; 128 rows:
45 and 27 ms). Sums per group are kept only where `qpass_kernels.cpu_groups` has a fast form.

Tiles are cut from a stack of layers (of one, for an ordinary product), so that nothing larger than
a tile is copied for a layer of a scan.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels import cpu_cost, cpu_groups, reference
from qpass_kernels.cpu_codes import as_bytes, decode, parts
from qpass_kernels.kernel import CODES, Kernel, Product, dtype
from qpass_kernels.ragged_cpu import by_blocks

# Weight elements in a tile: 1 MB when decoded, which stays in a core's second-level cache. Half and
# twice as much measured the same within the noise; a fifth of that is slower.
FLOAT_TILE = 2**18
INT_TILE = 2**20


def supports(product: Product) -> str | None:
    """Take every product whose weight has plain sizes; m may be symbolic."""
    symbolic = [size for size in product.symbolic if size != "m"]
    return f"{' and '.join(symbolic)} symbolic: weight tiles need numbers" if symbolic else None


def reads(product: Product) -> bool:
    """Whether tiles are cut from codes with a table: four bits that come in pairs."""
    known = not set(product.symbolic) - {"m"}
    pairs = known and product.code_bits == 4 and not _is_odd(product) and not _tail(product)
    return product.weight_only and pairs


def run(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    """Compute the product of the reference; grouped weights are decoded before the sum over K.

    With a bfloat16 lhs of several rows, grouped weights and values are rounded to bfloat16.
    """
    if cpu_groups.fits(product):
        return cpu_groups.run(product, lhs, lhs_scale, rhs, rhs_scale)
    lhs, rhs = (_whole_groups(product, x) for x in (reference.sealed(lhs), rhs))
    if product.rhs == "int4" and _is_odd(product):
        rhs = rhs.astype(jnp.int8)
    return _run(product, lhs, lhs_scale, rhs[None], rhs_scale[None], 0)


def run_stacked(
    product: Product, lhs: Any, lhs_scale: Any, stack: Any, stack_scale: Any, index: Any
) -> Any:
    """Compute the same with layer `index` of `[S, B, N, K]`, which is read tile by tile."""
    odd = product.rhs == "int4" and _is_odd(product)
    if cpu_groups.fits(product) or _tail(product) or odd:
        rhs, rhs_scale = (_layer(x, index) for x in (stack, stack_scale))
        return run(product, lhs, lhs_scale, rhs, rhs_scale)
    return _run(product, reference.sealed(lhs), lhs_scale, stack, stack_scale, index)


def _run(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any, index: Any) -> Any:
    """Multiply by layer `index`; groups are whole, and int4 come in pairs."""
    row_scale = jnp.ones((1, 1, 1), jnp.float32)
    if product.rhs_scale == "row":
        row_scale = _layer(rhs_scale, index)
    if product.integer and not product.grouped and reference.is_safe(product.k):
        total = _integer(product, lhs, rhs, index)
        return _finish(product, total, lhs_scale, row_scale)
    if product.lhs_scale == "group":
        lhs, lhs_scale = _times_groups(product, lhs.astype(jnp.float32), lhs_scale), None
    total = _floating(product, lhs, rhs, rhs_scale, index)
    return _finish(product, total, lhs_scale, row_scale)


def _layer(stack: Any, index: Any) -> Any:
    return lax.dynamic_index_in_dim(stack, index, keepdims=False, allow_negative_indices=False)


def _is_odd(product: Product) -> bool:
    """Tell whether K or a group of it does not fill whole bytes of two int4."""
    return bool(product.k % 2 or (product.grouped and product.group % 2))


def _finish(product: Product, total: Any, lhs_scale: Any, rhs_scale: Any) -> Any:
    total = reference.scaled(total, lhs_scale, rhs_scale)
    return reference.sealed(total.astype(dtype(product.out)))


def _integer(product: Product, lhs: Any, rhs: Any, index: Any) -> Any:
    """Multiply integer codes into int32 `[B, M, N]`."""
    # XLA's int8 product with one row leaves the fast library path (4 times as slow): send two.
    single = isinstance(product.m, int) and product.m == 1
    if single:
        lhs = jnp.pad(lhs, ((0, 0), (0, 1), (0, 0)))
    if rhs.dtype == jnp.int8:
        total = reference.dot(product, lhs, _layer(rhs, index))
    else:
        lhs, data, name = _packed(lhs.astype(jnp.int8), rhs)

        def part(xs: Any, tile: Any) -> Any:
            pairs = zip(xs, decode(tile, name), strict=True)
            return sum(_dot(x, values, jnp.int32) for x, values in pairs)

        total = _over_tiles(product, part, INT_TILE, jnp.int32, lhs, index, data)
    return total[:, :1] if single else total


def _floating(product: Product, lhs: Any, rhs: Any, rhs_scale: Any, index: Any) -> Any:
    """Multiply lhs values by codes (times their scales where grouped) into float32 `[B, M, N]`."""
    kind = _operand_dtype(product)
    lhs, data, name = _packed(lhs.astype(kind), rhs)

    def part(xs: Any, tile: Any, scale: Any = None) -> Any:
        values = [v.astype(jnp.float32) for v in decode(tile, name, product.table)]
        if scale is not None:
            values = [_times_groups(product, v, scale) for v in values]
        pairs = zip(xs, values, strict=True)
        return sum(_dot(x, v.astype(kind), jnp.float32) for x, v in pairs)

    rows = (data, rhs_scale) if product.rhs_scale == "group" else (data,)
    return _over_tiles(product, part, FLOAT_TILE, jnp.float32, lhs, index, *rows)


def _operand_dtype(product: Product) -> Any:
    """Choose what floats are multiplied in: bfloat16 where that loses nothing that lhs still has.

    bfloat16 holds every int8 and fp8 code exactly. For one row float32 is faster: its decoding is
    fused into the product.
    """
    codes = product.lhs not in ("float32", "float16") and product.rhs in CODES
    exact = codes and not product.grouped
    several = not isinstance(product.m, int) or product.m > 1
    return jnp.bfloat16 if several and (exact or product.lhs == "bfloat16") else jnp.float32


def _packed(lhs: Any, rhs: Any) -> tuple[Any, Any, str]:
    """Return lhs with K cut as rhs decodes, rhs as bytes, and what those bytes are."""
    name = rhs.dtype.name
    return parts(lhs, name), as_bytes(rhs), name


def _over_tiles(
    product: Product,
    part: Callable,
    elements: int,
    result: Any,
    lhs: tuple,
    index: Any,
    *stacks: Any,
) -> Any:
    """Fill `[B, M, N]` with `part(lhs[b], *stacks[index, b, n])`, a tile of the weight at a time.

    The last tile ends at the edge and repeats some of the one before. There are two at least: in
    the body of a loop nothing around it fuses with a float sum, and so changes its order.
    """
    tile = min(-(-product.n // 2), max(16, elements // product.k // 16 * 16))
    whole = tile * 2 >= product.n
    batch = min(product.batch, max(1, elements // (tile * product.k))) if whole else 1
    steps = -(-product.n // tile)

    def step(number: Any, out: Any) -> Any:
        b = jnp.minimum(number // steps * batch, product.batch - batch)
        n = jnp.minimum(number % steps * tile, product.n - tile)
        cut = [_tile(x, (index, b, n, 0), (batch, tile)) for x in stacks]
        some = part([lax.dynamic_slice_in_dim(x, b, batch, 0) for x in lhs], *cut)
        return lax.dynamic_update_slice(out, some, (b, 0, n))

    start = _zeros(result, (*lhs[0].shape[:2], product.n), lhs[0], stacks[0])
    return lax.fori_loop(0, steps * -(-product.batch // batch), step, start)


def _tile(stack: Any, start: tuple, sizes: tuple) -> Any:
    """Cut `[batch, tile, K]` out of a stack."""
    return lax.dynamic_slice(stack, start, (1, *sizes, stack.shape[3]))[0]


def _zeros(kind: Any, shape: tuple, *operands: Any) -> Any:
    """Zeros that vary over the axes of a shard_map as the operands do (a loop's carry must)."""
    zero = jnp.zeros((), kind)
    for x in operands:
        zero = jnp.where(x[(0,) * x.ndim] != x[(0,) * x.ndim], zero, zero)
    return jnp.broadcast_to(zero, shape)


def _dot(lhs: Any, rhs: Any, result: Any) -> Any:
    contract = (((2,), (2,)), ((0,), (0,)))
    return lax.dot_general(lhs, rhs, contract, preferred_element_type=result)


def _whole_groups(product: Product, x: Any) -> Any:
    """Fill K up to whole groups with zero codes."""
    tail = _tail(product)
    return jnp.pad(x, ((0, 0), (0, 0), (0, tail))) if tail else x


def _tail(product: Product) -> int:
    """Return how many elements the last group lacks."""
    return product.groups * product.group - product.k if product.grouped else 0


def _times_groups(product: Product, values: Any, scale: Any) -> Any:
    """Multiply `[B, R, K]` (or the even or odd half of it) by `[B, R, G]`."""
    shape = (*values.shape[:2], product.groups, -1)
    return jnp.reshape(jnp.reshape(values, shape) * scale[..., None], values.shape)


CPU = Kernel(
    "cpu",
    ("cpu",),
    supports,
    run,
    run_stacked=run_stacked,
    reads=reads,
    ragged=by_blocks("cpu", supports, run_stacked, reads),
    slow=cpu_cost.slow(cpu_cost.by_xla),
    nanoseconds=cpu_cost.nanoseconds(cpu_cost.by_xla),
)
