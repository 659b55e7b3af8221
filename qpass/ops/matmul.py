"""The quantized product as a JAX primitive: the kernel is picked when the program is lowered.

``quantized_matmul`` computes ``out[b, m, n] = sum_k lhs[b, m, k] * rhs[b, n, k]`` with scales. One
traced program can so be compiled or exported for CPU, CUDA and TPU, each with its own kernel, and
no kernel is traced for a platform that nobody asked for.

The right operand may be one layer of a stack: the primitive is handed the whole stack and an index,
so that a kernel that can (``Kernel.run_stacked``) reads the layer where it lies. And its codes may
be such as kernels do not know: those that read tables (``Kernel.reads``) get them as they are
stored, and for all others they are decoded here.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import Primitive, ShapedArray
from qpass.numerics import QType, dtype_of, from_stored, table_of
from qpass.ops.by_kernel import run_by_kernel
from qpass_kernels import Kernel, Product, select
from qpass_kernels.epilogue import NOTHING, Epilogue, finish
from qpass_kernels.kernel import run_whole

quantized_matmul_p = Primitive("quantized_matmul")


def quantized_matmul(
    lhs: jax.Array,
    lhs_scale: jax.Array | None,
    rhs: jax.Array,
    rhs_scale: jax.Array,
    *,
    group: int,
    out: Any,
    kernels: tuple[Kernel, ...],
    index: jax.Array | None = None,
    stored: QType | None = None,
    epilogue: Epilogue = NOTHING,
    extra: Sequence[jax.Array] = (),
) -> jax.Array:
    """Product of quantized operands in the kernels' canonical form.

    Args:
        lhs: codes ``[B, M, K]``, or floats for a weight-only product.
        lhs_scale: float32 ``[B, M, 1]`` or ``[B, M, G]``; None for floats.
        rhs: codes ``[B, N, K]``; with ``index`` a stack ``[S, B, N, K]``.
        rhs_scale: float32 ``[B, N, 1]`` or ``[B, N, G]``; with ``index`` the stack of them.
        group: elements of K per scale; K where nothing is grouped.
        out: dtype of the result.
        kernels: the table to pick from when lowering.
        index: int32 scalar, which layer of the stacks; None where there are none.
        stored: the type of rhs, a type with a table, where codes are as they are stored: elements
            of four bits, or bytes ``[..., ceil(bits * K / 8)]``. None: a dtype that kernels know.
        epilogue: what follows the product, before the cast to ``out``.
        extra: what that asks for: the bias float32 ``[B, N]``, the others ``[B, M, N]`` in ``out``.

    Returns:
        ``[B, M, N]`` in ``out``.
    """
    rest = tuple(x for x in (lhs_scale, index) if x is not None)
    name = jnp.dtype(out).name
    return quantized_matmul_p.bind(
        lhs,
        rhs,
        rhs_scale,
        *rest,
        *extra,
        group=group,
        out=name,
        kernels=kernels,
        stored=stored,
        epilogue=epilogue,
    )


def without_extra(operands: Sequence[Any], epilogue: Epilogue) -> tuple[tuple, tuple]:
    """The operands of the product, and those of what follows it."""
    count = len(operands) - len(epilogue.operands)
    return tuple(operands[:count]), tuple(operands[count:])


def one_layer(lhs: Any, rhs: Any, rhs_scale: Any, *rest: Any) -> tuple[Any, ...]:
    """The operands of a product without stacks: their layer is cut out."""
    if not _is_stacked(rhs):
        return lhs, rhs, rhs_scale, *rest
    *lhs_scale, index = rest
    return lhs, layer_at(index, rhs), layer_at(index, rhs_scale), *lhs_scale


def layer_at(index: jax.Array, stack: jax.Array) -> jax.Array:
    """One layer, cut out; the index does not count from the end."""
    return lax.dynamic_index_in_dim(stack, index, keepdims=False, allow_negative_indices=False)


def _is_stacked(rhs: Any) -> bool:
    return rhs.ndim == 4


def describe(
    shapes: tuple[Any, ...],
    group: int,
    out: str,
    stored: QType | None,
    epilogue: Epilogue = NOTHING,
) -> Product:
    """The kernels' description of a product, from its operands (anything with shape and dtype).

    Args:
        shapes: lhs, rhs, rhs_scale, for quantized lhs lhs_scale, for stacks the index.
        group: elements of K per scale.
        out: dtype name of the result.
        stored: the type of codes that kernels do not know.
        epilogue: what follows the product.
    """
    lhs, rhs, rhs_scale, *rest = shapes
    batch, m, k = lhs.shape
    scales = rest[:-1] if _is_stacked(rhs) else rest
    return Product(
        batch=batch,
        m=m,
        n=rhs.shape[-2],
        k=k,
        lhs=lhs.dtype.name,
        rhs=dtype_of(stored) if stored else rhs.dtype.name,
        out=out,
        group=group,
        lhs_scale=_layout(scales[0]) if scales else "none",
        rhs_scale=_layout(rhs_scale),
        table=stored and table_of(stored),
        epilogue=epilogue,
    )


def _layout(scale: Any) -> Any:
    one = isinstance(scale.shape[-1], int) and scale.shape[-1] == 1
    return "row" if one else "group"


def _run(*operands, group, out, kernels, stored, epilogue, platform):
    operands, extra = without_extra(operands, epilogue)
    whole = describe(operands, group, out, stored, epilogue)
    picked = select(kernels, platform, whole)
    kernel, product = picked.kernel, picked.product
    stored = None if product.table is not None else stored
    if kernel.run_stacked is not None and _is_stacked(operands[1]) and stored is None:
        lhs, stack, scales, *rest, index = operands
        arrays = (lhs, rest[0] if rest else None, stack, scales, index)
        return run_whole(whole, kernel.run_stacked, product, *arrays, *extra)
    lhs, rhs, rhs_scale, *rest = one_layer(*operands)
    if stored is not None:
        rhs, unit, _ = from_stored(rhs, stored, product.k)
        rhs_scale = rhs_scale if unit == 1 else rhs_scale * unit
    arrays = (lhs, rest[0] if rest else None, rhs, rhs_scale)
    return run_whole(whole, kernel.run, product, *arrays, *extra)


def _abstract(
    *avals: ShapedArray, stored: QType | None, out: str, epilogue: Epilogue, **_: Any
) -> Any:
    """Shape from the operands; sharding and varying axes as the plain product would have them."""

    def plain(*operands):
        operands, extra = without_extra(operands, epilogue)
        lhs, rhs, *_ = one_layer(*operands)
        rhs = from_stored(rhs, stored, lhs.shape[2]).codes if stored else rhs
        low, high = jnp.bfloat16, jnp.dtype(out)
        contract = (((2,), (2,)), ((0,), (0,)))
        total = jax.lax.dot_general(
            lhs.astype(low), rhs.astype(low), contract, preferred_element_type=high
        )
        return finish(epilogue, total, extra, high)

    if _is_plain(avals):
        lhs, rhs = avals[:2]
        return ShapedArray((*lhs.shape[:2], rhs.shape[-2]), jnp.dtype(out))
    return jax.make_jaxpr(plain)(*avals).out_avals[0]


def _is_plain(avals: tuple) -> bool:
    no_mesh = jax.sharding.get_abstract_mesh().empty
    return no_mesh and all(isinstance(d, int) for aval in avals for d in aval.shape)


def _batch(args: tuple, dims: tuple, **params: Any) -> tuple[Any, int]:
    """Batching: a mapped operand joins the kernel's batch, or its rows when the other is not."""
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    if params["epilogue"]:
        return _batch_followed(args, dims, size, params)
    args, dims, index = _without_index(args, dims)
    lhs, rhs = (args[0], *args[3:]), args[1:3]
    lhs_dims, rhs_dims = (dims[0], *dims[3:]), dims[1:3]
    if all(d is None for d in rhs_dims):
        rows = [_into_rows(a, d, size) for a, d in zip(lhs, lhs_dims, strict=True)]
        out = quantized_matmul_p.bind(rows[0], *rhs, *rows[1:], *index, **params)
        return _out_of_axis(out, 1, size)
    if all(d is None for d in lhs_dims):
        rows = [_into_rows(a, d, size) for a, d in zip(rhs, rhs_dims, strict=True)]
        out = quantized_matmul_p.bind(lhs[0], *rows, *lhs[1:], **params)
        return _out_of_axis(out, 2, size)
    joined = [_into_batch(a, d, size) for a, d in zip(args, dims, strict=True)]
    out = quantized_matmul_p.bind(*joined, **params)
    return jnp.reshape(out, (size, -1, *out.shape[1:])), 0


def _batch_followed(args: tuple, dims: tuple, size: int, params: dict) -> tuple[Any, int]:
    """Batching of a product with an epilogue: rows where weight and bias are not mapped."""
    epilogue = params["epilogue"]
    args, extra = without_extra(args, epilogue)
    dims, extra_dims = without_extra(dims, epilogue)
    args, dims, index = _without_index(args, dims)
    every = [*zip((*args, *extra), (*dims, *extra_dims), strict=True)]
    shared = {1, 2, *([len(args)] if epilogue.bias else [])}  # the weight, its scales, the bias
    if all(every[k][1] is None for k in shared):
        rows = [a if k in shared else _into_rows(a, d, size) for k, (a, d) in enumerate(every)]
        rows[len(args) : len(args)] = index
        return _out_of_axis(quantized_matmul_p.bind(*rows, **params), 1, size)
    if index:  # a layer that all examples share: cut out, as it joins the batch
        cut = one_layer(*args, *index)
        every[1:3] = [(layer, None) for layer in cut[1:3]]
    joined = [_into_batch(a, d, size) for a, d in every]
    out = quantized_matmul_p.bind(*joined, **params)
    return jnp.reshape(out, (size, -1, *out.shape[1:])), 0


def _without_index(args: tuple, dims: tuple) -> tuple[tuple, tuple, tuple]:
    """Operands and their axes without the index, and the index in a tuple of its own.

    Where stack or index are mapped there is none: each example's layer is cut out.
    """
    if args[1].ndim - (dims[1] is not None) == 3:
        return args, dims, ()
    of_stack = (*dims[1:3], dims[-1])
    if all(d is None for d in of_stack):
        return args[:-1], dims[:-1], args[-1:]
    layers = jax.vmap(lambda *stack: one_layer(args[0], *stack)[1:], of_stack)
    return (
        (args[0], *layers(*args[1:3], args[-1]), *args[3:-1]),
        (dims[0], 0, 0, *dims[3:-1]),
        (),
    )


def _front(array: Any, dim: int | None, size: int) -> Any:
    if dim is None:
        return jnp.broadcast_to(array, (size, *array.shape))
    return jnp.moveaxis(array, dim, 0)


def _into_batch(array: Any, dim: int | None, size: int) -> Any:
    array = _front(array, dim, size)
    return jnp.reshape(array, (size * array.shape[1], *array.shape[2:]))


def _into_rows(array: Any, dim: int | None, size: int) -> Any:
    """``[V, B, R, C]`` to ``[B, V * R, C]``."""
    array = jnp.swapaxes(_front(array, dim, size), 0, 1)
    return jnp.reshape(array, (array.shape[0], size * array.shape[2], array.shape[3]))


def _out_of_axis(out: Any, axis: int, size: int) -> tuple[Any, int]:
    shape = (*out.shape[:axis], size, out.shape[axis] // size, *out.shape[axis + 1 :])
    return jnp.reshape(out, shape), axis


run_by_kernel(
    quantized_matmul_p,
    ("group", "out", "kernels", "stored", "epilogue"),
    run=_run,
    abstract=_abstract,
    batch=_batch,
)
