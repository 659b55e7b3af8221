"""The plain product: the oracle of every other kernel, and the last in the table."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels.kernel import Kernel, Product, dtype
from qpass_kernels.ragged_reference import by_experts

# 128 * 128 * K stays below 2**31 up to here; a longer group is added up in float32 instead.
INT32_SAFE_K = (2**31 - 1) // (128 * 128)
OVERFLOW = f"k > {INT32_SAFE_K} overflows int32"


def run(product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    """Compute `sum over groups of (f32(dot(lhs, rhs)) * lhs_scale) * rhs_scale`, cast to `out`.

    Integer codes add up exactly in int32 within a group, everything else in float32 at the highest
    precision. Any size, group tail and symbolic batch or m. Memory: one `[B, M, N]` beside the
    operands, whatever the number of groups.
    """
    lhs = sealed(lhs)
    if not product.grouped:
        total = scaled(dot(product, lhs, rhs), lhs_scale, rhs_scale)
        return sealed(total.astype(dtype(product.out)))
    lhs, rhs = (split(product, x) for x in (lhs, rhs))

    def term(index: Any) -> Any:
        codes = (lax.dynamic_index_in_dim(x, index, 2, keepdims=False) for x in (lhs, rhs))
        return scaled(dot(product, *codes), pick(lhs_scale, index), pick(rhs_scale, index))

    # The first term starts the sum (not zeros): in shard_map it varies over the mesh as the rest.
    total = lax.fori_loop(1, product.groups, lambda g, acc: acc + term(g), term(0))
    return sealed(total.astype(dtype(product.out)))


def sealed(x: Any) -> Any:
    """Keep XLA from computing this value in another way for the sake of what surrounds it.

    Fused with its neighbours, a scaled sum would run into a following addition without being
    rounded (a fused multiply-add), and a bfloat16 operand come in with the bits it had before
    rounding: the same codes would give other bits in another program.
    """
    return lax.optimization_barrier(x)


def dot(product: Product, lhs: Any, rhs: Any) -> Any:
    """Multiply `[B, M, K]` by `[B, N, K]`: int32 for integer codes, else float32."""
    exact = product.integer and is_safe(product.group)
    operand, result = (jnp.int8, jnp.int32) if exact else (jnp.float32, jnp.float32)
    return lax.dot_general(
        lhs.astype(operand),
        rhs.astype(operand),
        (((2,), (2,)), ((0,), (0,))),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=result,
    )


def is_safe(k: Any) -> bool:
    """Whether K products of codes fit in int32 (a symbolic K is taken to be a sequence: short)."""
    return not isinstance(k, int) or k <= INT32_SAFE_K


def scaled(total: Any, lhs_scale: Any, rhs_scale: Any) -> Any:
    """Multiply `[B, M, N]` by `[B, M, 1]` (or nothing), then by `[B, N, 1]`, in float32."""
    total = total.astype(jnp.float32)
    if lhs_scale is not None:
        total = total * lhs_scale
    return total * jnp.swapaxes(rhs_scale, 1, 2)


def split(product: Product, x: Any) -> Any:
    """Cut K into groups: `[B, R, K]` -> `[B, R, G, group]`, the last one filled up with zeros."""
    tail = product.groups * product.group - product.k
    x = jnp.pad(x, ((0, 0), (0, 0), (0, tail)))
    return jnp.reshape(x, (*x.shape[:2], product.groups, product.group))


def pick(scale: Any, index: Any) -> Any:
    """Take a group's scales `[B, R, 1]`: those of the row where it has only one per row."""
    if scale is None or scale.shape[2] == 1:
        return scale
    return lax.dynamic_slice_in_dim(scale, index, 1, axis=2)


REFERENCE = Kernel("reference", (), lambda product: None, run, ragged=by_experts("reference", run))
