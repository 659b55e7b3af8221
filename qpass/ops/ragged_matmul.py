"""The ragged product as a JAX primitive: what computes it is picked when the program is lowered.

``ragged_matmul`` computes ``out[i, n] = sum_k lhs[i, k] * rhs[e(i), n, k]`` with scales, rows of an
expert ``e`` one after another, for every platform by what the table of kernels has for it
(``Kernel.ragged``). As in `qpass.ops.matmul`, the experts may be one layer of a stack, and codes
with a table come as they are stored: kernels that read them so get them, for all others they are
decoded here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import Primitive, ShapedArray
from qpass.numerics import QType, dtype_of, from_stored, table_of
from qpass.ops.by_kernel import run_by_kernel
from qpass.ops.matmul import layer_at
from qpass_kernels import Kernel, RaggedProduct, select_ragged

ragged_matmul_p = Primitive("ragged_matmul")


def ragged_matmul(
    lhs: jax.Array,
    lhs_scale: jax.Array | None,
    rhs: jax.Array,
    rhs_scale: jax.Array,
    group_sizes: jax.Array,
    *,
    group: int,
    out: Any,
    kernels: tuple[Kernel, ...],
    index: jax.Array | None = None,
    stored: QType | None = None,
) -> jax.Array:
    """Ragged product of quantized operands in the kernels' canonical form.

    Args:
        lhs: codes ``[M, K]``, or floats for a weight-only product.
        lhs_scale: float32 ``[M, 1]`` or ``[M, G]``; None for floats.
        rhs: codes ``[E, N, K]``; with ``index`` a stack ``[S, E, N, K]``.
        rhs_scale: float32 ``[E, N, 1]`` or ``[E, N, G]``; with ``index`` the stack of them.
        group_sizes: int32 ``[E]``, how many rows each expert has.
        group: elements of K per scale; K where nothing is grouped.
        out: dtype of the result.
        kernels: the table to pick from when lowering.
        index: int32 scalar, which layer of the stacks; None where there are none.
        stored: as of `qpass.ops.matmul.quantized_matmul`: the type of codes that are as they are
            stored.

    Returns:
        ``[M, N]`` in ``out``; rows beyond those of all experts are zero.
    """
    rest = tuple(x for x in (lhs_scale, index) if x is not None)
    name = jnp.dtype(out).name
    return ragged_matmul_p.bind(
        lhs,
        rhs,
        rhs_scale,
        group_sizes,
        *rest,
        group=group,
        out=name,
        kernels=kernels,
        stored=stored,
    )


def describe(shapes: Sequence[Any], group: int, out: str, stored: QType | None) -> RaggedProduct:
    """The kernels' description of a product, from its operands (anything with shape and dtype).

    Args:
        shapes: lhs, rhs, rhs_scale, group_sizes, for quantized lhs lhs_scale, for stacks the index.
        group: elements of K per scale.
        out: dtype name of the result.
        stored: the type of codes that kernels do not know.
    """
    lhs, rhs, rhs_scale, *_ = shapes
    lhs_scale, _ = _rest(shapes)
    return RaggedProduct(
        m=lhs.shape[0],
        n=rhs.shape[-2],
        k=lhs.shape[1],
        experts=rhs.shape[-3],
        lhs=lhs.dtype.name,
        rhs=dtype_of(stored) if stored else rhs.dtype.name,
        out=out,
        group=group,
        lhs_scale="none" if lhs_scale is None else _layout(lhs_scale),
        rhs_scale=_layout(rhs_scale),
        table=stored and table_of(stored),
    )


def _rest(operands: Sequence[Any]) -> tuple[Any, Any]:
    """``lhs_scale`` and ``index``; None for what there is not."""
    _, rhs, _, _, *rest = operands
    index = rest.pop() if rhs.ndim == 4 else None
    return (rest[0] if rest else None), index


def _layout(scale: Any) -> Any:
    return "row" if scale.shape[-1] == 1 else "group"


def _run(*operands, group, out, kernels, stored, platform):
    lhs, rhs, rhs_scale, sizes, *_ = operands
    scale, index = _rest(operands)
    picked = select_ragged(kernels, platform, describe(operands, group, out, stored))
    ragged, product = picked.ragged, picked.product
    encoded = stored if product.table is None else None
    if index is not None and ragged.skips and encoded is None:
        # Experts of other layers have no rows: what is not read is not copied either.
        everyone = jnp.zeros((rhs.shape[0] * product.experts,), sizes.dtype)
        sizes = lax.dynamic_update_slice_in_dim(everyone, sizes, index * product.experts, 0)
        rhs, rhs_scale = (jnp.reshape(x, (-1, *x.shape[2:])) for x in (rhs, rhs_scale))
        product = replace(product, experts=rhs.shape[0])
    elif index is not None:
        rhs, rhs_scale = layer_at(index, rhs), layer_at(index, rhs_scale)
    if encoded is not None:
        rhs, unit, _ = from_stored(rhs, encoded, product.k)
        rhs_scale = rhs_scale if unit == 1 else rhs_scale * unit
    return ragged.run(product, lhs, scale, rhs, rhs_scale, sizes)


def _abstract(*avals: ShapedArray, out: str, stored: QType | None, **_: Any) -> Any:
    """Shape from the operands; varying axes as the product of one expert would have them."""

    def plain(lhs, rhs, rhs_scale, group_sizes, *rest):
        low, high = jnp.bfloat16, jnp.dtype(out)
        if rhs.ndim == 4:
            rhs, rhs_scale = layer_at(rest[-1], rhs), layer_at(rest[-1], rhs_scale)
        rhs = from_stored(rhs, stored, lhs.shape[1]).codes if stored else rhs
        weight = rhs[0].astype(low) + (rhs_scale[0, :, :1] * group_sizes[0]).astype(low)
        contract = (((1,), (1,)), ((), ()))
        return lax.dot_general(lhs.astype(low), weight, contract, preferred_element_type=high)

    lhs, rhs = avals[:2]
    if jax.sharding.get_abstract_mesh().empty:
        return ShapedArray((lhs.shape[0], rhs.shape[-2]), jnp.dtype(out))
    return jax.make_jaxpr(plain)(*avals).out_avals[0]


def _batch(args: tuple, dims: tuple, **params: Any) -> tuple[Any, int]:
    """Batching: mapped rows are more rows of their experts; other products run one by one."""
    of_rows = [k for k in (0, 4) if k < len(args) and args[k].ndim - (dims[k] is not None) == 2]
    if all(d is None for k, d in enumerate(dims) if k not in of_rows):
        return _more_rows(args, dims, of_rows, **params), 1
    mapped = [jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True) if d is not None]

    def one(mapped: Sequence[jax.Array]) -> jax.Array:
        rest = iter(mapped)
        whole = [a if d is None else next(rest) for a, d in zip(args, dims, strict=True)]
        return ragged_matmul_p.bind(*whole, **params)

    return lax.map(one, mapped), 0


def _more_rows(args: tuple, dims: tuple, of_rows: Sequence[int], **params: Any) -> Any:
    """``[M, V, N]``: the V rows that stand for one are neighbours, so that experts stay sorted."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    whole = [_beside(a, dims[k], size) if k in of_rows else a for k, a in enumerate(args)]
    whole[3] = args[3] * size
    out = ragged_matmul_p.bind(*whole, **params)
    return jnp.reshape(out, (-1, size, out.shape[1]))


def _beside(array: Any, dim: int | None, size: int) -> Any:
    """``[M, C]`` with a mapped axis, or without, as ``[M * V, C]``."""
    if dim is None:
        array = jnp.broadcast_to(array[:, None], (array.shape[0], size, array.shape[1]))
    else:
        array = jnp.moveaxis(array, dim, 1)
    return jnp.reshape(array, (-1, array.shape[2]))


run_by_kernel(
    ragged_matmul_p,
    ("group", "out", "kernels", "stored"),
    run=_run,
    abstract=_abstract,
    batch=_batch,
)
