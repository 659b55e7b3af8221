"""The ragged product as a JAX primitive: what computes it is picked when the program is lowered.

``ragged_matmul`` computes ``out[i, n] = sum_k lhs[i, k] * rhs[e(i), n, k]`` with scales, rows of an
expert ``e`` one after another, for every platform by what the table of kernels has for it
(``Kernel.ragged``).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import Primitive, ShapedArray
from qpass.ops.by_kernel import run_by_kernel
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
) -> jax.Array:
    """Ragged product of quantized operands in the kernels' canonical form.

    Args:
        lhs: codes ``[M, K]``, or floats for a weight-only product.
        lhs_scale: float32 ``[M, 1]`` or ``[M, G]``; None for floats.
        rhs: codes ``[E, N, K]``.
        rhs_scale: float32 ``[E, N, 1]`` or ``[E, N, G]``.
        group_sizes: int32 ``[E]``, how many rows each expert has.
        group: elements of K per scale; K where nothing is grouped.
        out: dtype of the result.
        kernels: the table to pick from when lowering.

    Returns:
        ``[M, N]`` in ``out``; rows beyond those of all experts are zero.
    """
    rest = () if lhs_scale is None else (lhs_scale,)
    name = jnp.dtype(out).name
    return ragged_matmul_p.bind(
        lhs, rhs, rhs_scale, group_sizes, *rest, group=group, out=name, kernels=kernels
    )


def describe(shapes: Sequence[Any], group: int, out: str) -> RaggedProduct:
    """The kernels' description of a product, from its operands (anything with shape and dtype).

    Args:
        shapes: lhs, rhs, rhs_scale, group_sizes, and lhs_scale for quantized lhs.
        group: elements of K per scale.
        out: dtype name of the result.
    """
    lhs, rhs, rhs_scale, _, *lhs_scale = shapes
    (m, k), (experts, n, _) = lhs.shape, rhs.shape
    return RaggedProduct(
        m=m,
        n=n,
        k=k,
        experts=experts,
        lhs=lhs.dtype.name,
        rhs=rhs.dtype.name,
        out=out,
        group=group,
        lhs_scale=_layout(lhs_scale[0]) if lhs_scale else "none",
        rhs_scale=_layout(rhs_scale),
    )


def _layout(scale: Any) -> Any:
    return "row" if scale.shape[-1] == 1 else "group"


def _run(lhs, rhs, rhs_scale, group_sizes, *lhs_scale, group, out, kernels, platform):
    operands = (lhs, rhs, rhs_scale, group_sizes, *lhs_scale)
    product = describe(operands, group, out)
    picked = select_ragged(kernels, platform, product).ragged
    scale = lhs_scale[0] if lhs_scale else None
    return picked.run(product, lhs, scale, rhs, rhs_scale, group_sizes)


def _abstract(*avals: ShapedArray, out: str, **_: Any) -> Any:
    """Shape from the operands; varying axes as the product of one expert would have them."""

    def plain(lhs, rhs, rhs_scale, group_sizes, *rest):
        low, high = jnp.bfloat16, jnp.dtype(out)
        weight = rhs[0].astype(low) + (rhs_scale[0, :, :1] * group_sizes[0]).astype(low)
        contract = (((1,), (1,)), ((), ()))
        return lax.dot_general(lhs.astype(low), weight, contract, preferred_element_type=high)

    lhs, rhs = avals[:2]
    if jax.sharding.get_abstract_mesh().empty:
        return ShapedArray((lhs.shape[0], rhs.shape[1]), jnp.dtype(out))
    return jax.make_jaxpr(plain)(*avals).out_avals[0]


def _batch(args: tuple, dims: tuple, **params: Any) -> tuple[Any, int]:
    """Batching: mapped rows are more rows of their experts; other products run one by one."""
    experts = dims[1:4]
    if all(d is None for d in experts):
        return _more_rows(args, dims, **params), 1
    mapped = [jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True) if d is not None]

    def one(mapped: Sequence[jax.Array]) -> jax.Array:
        rest = iter(mapped)
        whole = [a if d is None else next(rest) for a, d in zip(args, dims, strict=True)]
        return ragged_matmul_p.bind(*whole, **params)

    return lax.map(one, mapped), 0


def _more_rows(args: tuple, dims: tuple, **params: Any) -> Any:
    """``[M, V, N]``: the V rows that stand for one are neighbours, so that experts stay sorted."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    lhs, *scale = (_beside(args[k], dims[k], size) for k in (0, *range(4, len(args))))
    out = ragged_matmul_p.bind(lhs, args[1], args[2], args[3] * size, *scale, **params)
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
    ("group", "out", "kernels"),
    run=_run,
    abstract=_abstract,
    batch=_batch,
)
