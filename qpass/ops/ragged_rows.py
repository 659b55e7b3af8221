"""A ragged product in JAX's second mode: sums over the rows of each expert.

It is the gradient of experts. Both operands have a scale for each column, or one for each group of
rows and column: groups do not end where experts do, so what their codes stand for is multiplied
then, in float32. As XLA computes it on CPU, it is a dense product of all rows for each expert. Here
a loop goes over blocks of rows of one expert and adds up what each gives; other platforms have
their own form.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import QTensor
from qpass.ops.asked import quantized_in_place, values
from qpass.ops.ragged_spec import RaggedSpec
from qpass_kernels.ragged_blocks import block_rows, over_blocks, zeros
from qpass_kernels.reference import is_safe, sealed

NUMBERS = lax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), [1], [])


def over_rows(
    spec: RaggedSpec, x: jax.Array, w: QTensor, group_sizes: jax.Array, fed: dict
) -> jax.Array:
    """Columns of ``x`` by those of ``w``: ``[E, lhs free, rhs free]`` in JAX's own layout."""
    act = x if spec.act is None else quantized_in_place(spec, x, w, fed)
    left, right = (_columns(spec, q, s) for q, s in ((act, 1 - spec.weight), (w, spec.weight)))
    total = sum_rows(left.codes, right.codes, group_sizes.astype(jnp.int32))
    total = sealed(total * left.scale * right.scale.T)
    if spec.weight == 0:  # quantized alike, it has the same bits whichever side the weight is on
        total = jnp.swapaxes(total, 1, 2)
    pair = (w, x) if spec.weight == 0 else (x, w)
    sizes = [q.shape[d] for k, q in enumerate(pair) for d in spec.free(k, q.ndim)]
    return jnp.reshape(total, (-1, *sizes)).astype(spec.out)


class _Columns(NamedTuple):
    """An operand ``codes * scale``: codes or floats ``[C, M]``, scales ``[C, 1]``."""

    codes: jax.Array
    scale: jax.Array


def _columns(spec: RaggedSpec, q: QTensor | jax.Array, side: int) -> _Columns:
    """Columns of an operand, as codes where one scale serves all rows of each."""
    rows, free = spec.dims[0][side], spec.free(side, q.ndim)
    if not isinstance(q, QTensor):
        floats = lax.transpose(q, (*free, *rows))
        floats = jnp.reshape(floats, (-1, floats.shape[-1])).astype(jnp.float32)
        return _Columns(floats, jnp.ones((1, 1), jnp.float32))
    operand = q.canonical((), free, rows)
    if has_plain_columns(spec, q, side):
        return _Columns(operand.codes[0], operand.scale[0])
    return _Columns(values(operand)[0], jnp.ones((1, 1), jnp.float32))


def has_plain_columns(spec: RaggedSpec, q: QTensor, side: int) -> bool:
    """Whether codes can be summed as they are: one scale for each column, and no zero points."""
    return q.zero is None and not any(q.cuts(spec.dims[0][side]))


def sum_rows(lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """Products of codes, summed over the rows of each expert.

    Args:
        lhs: codes ``[R, M]``.
        rhs: codes ``[C, M]``.
        group_sizes: int32 ``[E]``, how many of the M rows each expert has.

    Returns:
        float32 ``[E, R, C]``; of integer codes the exact sums, rounded once.
    """
    integers = all(jnp.issubdtype(x.dtype, jnp.integer) for x in (lhs, rhs))
    exact = integers and is_safe(lhs.shape[1])
    kind, total = (jnp.int8, jnp.int32) if exact else (jnp.float32, jnp.float32)
    operands = (lhs.astype(kind), rhs.astype(kind), group_sizes)
    forms = {"cpu": partial(_by_blocks, total), "default": partial(_by_xla, total)}
    return lax.platform_dependent(*operands, **forms).astype(jnp.float32)


def _by_xla(total: Any, lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array) -> jax.Array:
    return lax.ragged_dot_general(
        lhs,
        rhs,
        group_sizes,
        NUMBERS,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=total,
    )


def _by_blocks(total: Any, lhs: jax.Array, rhs: jax.Array, group_sizes: jax.Array) -> jax.Array:
    size = block_rows(lhs.shape[1], group_sizes.shape[0])
    rows = [jnp.pad(x, ((0, 0), (0, size))) for x in (lhs, rhs)]
    shape = (group_sizes.shape[0], lhs.shape[0], rhs.shape[0])

    def step(expert: Any, start: Any, stop: Any, sums: Any) -> Any:
        left, right = (lax.dynamic_slice_in_dim(x, start, size, 1) for x in rows)
        mine = start + jnp.arange(size) < stop
        left = jnp.where(mine, left, jnp.zeros((), left.dtype))
        part = lax.dot_general(left, right, (((1,), (1,)), ((), ())), preferred_element_type=total)
        return sums.at[expert].add(part)

    return over_blocks(group_sizes, size, step, zeros(shape, total, lhs, rhs, group_sizes))
