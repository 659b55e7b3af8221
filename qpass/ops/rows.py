"""Quantizing an activation row by row as a JAX primitive: the formula, or a kernel with its bits.

A product asks for the codes of an activation right before it runs. As the formula, that is several
loops for XLA CPU, each of which wakes its threads: longer than the product of one row itself. The
primitive is lowered as a call of a kernel that the table has for it (``Kernel.rows``), and
everywhere else as the formula of `qpass.numerics`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import Primitive, ShapedArray
from qpass.numerics import QPASS, PerGroup, QTensor, Quantizer, block_sizes, int8, quantize
from qpass.numerics.casts import as_f32
from qpass.ops.by_kernel import run_by_kernel
from qpass.ops.sharded import explicit_sharding
from qpass_kernels import Kernel
from qpass_kernels.kernel import runs_on
from qpass_kernels.row_quantizer import RowQuantizer, Rows

PLAIN = int8.as_quantizer().in_dialect(QPASS)

quantize_rows_p = Primitive("quantize_rows")
quantize_rows_p.multiple_results = True


def is_by_rows(x: jax.Array, quantizer: Quantizer, contract: Sequence[int]) -> bool:
    """Whether ``quantize(x, quantizer, contract)`` is what `quantize_rows` computes.

    It is where each row along the last axes, all of them contracted, or each group of a row has a
    scale of its own, and nothing but the values decides the codes. Where shardings are part of the
    types it is not: to a kernel, rows would be gathered.
    """
    ends_in_rows = contract and tuple(contract) == _last_axes(x, len(contract))
    is_sharded = explicit_sharding(jax.typeof(x)) is not None
    return bool(has_plain_rows(quantizer) and ends_in_rows and not is_sharded)


def has_plain_rows(quantizer: Quantizer) -> bool:
    """Whether it gives rows or groups of them symmetric int8 codes, each with its own scale."""
    cut = quantizer.granularity
    like_plain = {"dialect": quantizer.spoken, "granularity": PLAIN.granularity, "derivative": None}
    is_plain = replace(quantizer, **like_plain) == PLAIN
    return is_plain and (cut == PLAIN.granularity or isinstance(cut, PerGroup))


def quantize_rows(
    x: jax.Array, quantizer: Quantizer, contract: int, kernels: tuple[Kernel, ...]
) -> QTensor:
    """``quantize`` of an activation that is contracted along its last axes, bit for bit.

    Args:
        x: float array.
        quantizer: one of those that `is_by_rows` takes.
        contract: how many axes are contracted.
        kernels: the table that may hold a faster way.
    """
    params = {"quantizer": quantizer, "contract": contract}
    form = jax.tree.structure(jax.eval_shape(partial(_formula, **params), x))
    arrays = quantize_rows_p.bind(lax.stop_gradient(x), **params, kernels=kernels)
    return jax.tree.unflatten(form, arrays)


# Jitted so that it is traced once for the type of the result, the primitive and its lowering.
@partial(jax.jit, static_argnames=("quantizer", "contract"))
def _formula(x: jax.Array, quantizer: Quantizer, contract: int) -> QTensor:
    return quantize(x, quantizer, _last_axes(x, contract))


def _last_axes(x: Any, count: int) -> tuple[int, ...]:
    return tuple(range(x.ndim - count, x.ndim))


def describe(x: Any, quantizer: Quantizer, contract: int) -> Rows:
    """The kernels' description of the rows of ``x``, anything with shape and dtype.

    Where rows are cut in groups, these lie along the last axis, and so do the rows.
    """
    axes = _last_axes(x, contract)
    blocks = block_sizes(x.shape, quantizer.granularity, axes)
    whole = quantizer.granularity == PLAIN.granularity
    k = math.prod(x.shape[-contract:]) if whole else x.shape[-1]
    rows = math.prod(x.shape[:-contract] if whole else x.shape[:-1])
    return Rows(rows, k, k if whole else blocks[-1], x.dtype.name)


def _kernel(kernels: tuple[Kernel, ...], platform: str, rows: Rows) -> RowQuantizer | None:
    """The first of the table that takes the rows."""
    here = (k.rows for k in kernels if runs_on(k, platform))
    return next((found for found in here if found and found.supports(rows) is None), None)


def _run(x, *, quantizer, contract, kernels, platform):
    rows = describe(x, quantizer, contract)
    kernel = _kernel(kernels, platform, rows)
    formula = partial(_formula, quantizer=quantizer, contract=contract)
    if kernel is None:
        return jax.tree.leaves(formula(x))
    x = x if kernel.widens else as_f32(x)
    arrays = kernel.run(rows, lax.reshape(x, (rows.rows, rows.k)))
    shapes = jax.tree.leaves(jax.eval_shape(formula, x))
    return [lax.reshape(a, s.shape) for a, s in zip(arrays, shapes, strict=True)]


def _abstract(x: ShapedArray, *, kernels: tuple, **params: Any) -> list[Any]:
    """Shapes, sharding and varying axes as the formula has them."""
    return jax.make_jaxpr(partial(_formula, **params))(x).out_avals


def _batch(args: tuple, dims: tuple, **params: Any) -> tuple[list, tuple[int, int]]:
    """Batching: a mapped axis is one more that is not contracted."""
    return quantize_rows_p.bind(jnp.moveaxis(args[0], dims[0], 0), **params), (0, 0)


run_by_kernel(
    quantize_rows_p,
    ("quantizer", "contract", "kernels"),
    run=_run,
    abstract=_abstract,
    batch=_batch,
)
