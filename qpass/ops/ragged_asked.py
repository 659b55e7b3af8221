"""A ragged product in JAX's first mode, as kernels are asked for it: rows by experts, and back."""

import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import Operand, QTensor, common_cuts
from qpass.ops.asked import as_kernels_take, floats, quantized_in_place, values
from qpass.ops.axes_of_product import Layout, flatten, lay_out, restore
from qpass.ops.in_place import Right, right_operand
from qpass.ops.layer import Layer, tensor
from qpass.ops.ragged_matmul import describe, ragged_matmul
from qpass.ops.ragged_spec import RaggedSpec
from qpass.ops.zero_points import Sizes, same_groups, without_zeros
from qpass_kernels import RaggedProduct
from qpass_kernels.reference import sealed


class Operands(NamedTuple):
    """What a ragged product is made of; with batches, ``B`` in front of every array.

    Attributes:
        lhs: codes or floats ``[M, K]``.
        rhs: codes ``[E, N, K]``.
        rhs_scale: float32 ``[E, N, G]``.
        sizes: int32 ``[E]``, how many rows each expert has.
        lhs_scale: float32 ``[M, G]``; None for floats.
        zero: zero points of ``rhs`` as its scales; None where there are none.
    """

    lhs: jax.Array
    rhs: jax.Array
    rhs_scale: jax.Array
    sizes: jax.Array
    lhs_scale: jax.Array | None
    zero: jax.Array | None


def by_experts(
    spec: RaggedSpec, x: jax.Array, given: QTensor | Layer, group_sizes: jax.Array, fed: dict
) -> jax.Array:
    """Rows of ``x`` by the experts ``given``, in JAX's own output layout."""
    w = tensor(given)
    layout = _lay_out(spec, x.ndim, w)
    operands, group = _operands(spec, layout, x, w, group_sizes, fed)
    if operands.lhs.shape[0] == 1:  # as there nearly always is
        one = jax.tree.map(lambda a: a[0], operands)
        out = _multiply(spec, group, one, _right(spec, layout, given, one))[None]
    else:
        out = jax.vmap(partial(_multiply, spec, group))(operands)
    return restore(out, layout, spec.dims, 1, x.shape, w.shape)


def described(spec: RaggedSpec, x: Any, w: QTensor) -> RaggedProduct:
    """The kernels' description of the product, from shapes alone."""
    known: list[tuple] = []
    sizes = jax.ShapeDtypeStruct((w.shape[spec.of_experts],), jnp.int32)

    def asked(x: Any, w: QTensor, sizes: Any) -> tuple[Any, ...]:
        layout = _lay_out(spec, x.ndim, w)
        operands, group = _operands(spec, layout, x, w, sizes, {"key": jax.random.key(0)})
        one = jax.tree.map(lambda a: a[0], operands)
        right = _right(spec, layout, w, one) if operands.lhs.shape[0] == 1 else _made(one)
        known.append((group, _out(spec, one), right.stored))
        scale = () if one.lhs_scale is None else (one.lhs_scale,)
        return one.lhs, right.codes, right.scale, one.sizes, *scale

    shapes = jax.eval_shape(asked, x, w, sizes)
    return describe(shapes, *known[-1])


def _lay_out(spec: RaggedSpec, x_ndim: int, w: QTensor) -> Layout:
    """As of the plain product, the experts' axis in none of the lists."""
    layout = lay_out(spec.dims, 1, x_ndim, w)
    return replace(layout, w_free=tuple(d for d in layout.w_free if d != spec.of_experts))


def _operands(
    spec: RaggedSpec, layout: Layout, x: Any, w: QTensor, group_sizes: Any, fed: dict
) -> tuple[Operands, int]:
    """By batch, and how many elements of K share scales."""
    roles = ((*layout.w_batch, spec.of_experts), layout.w_free, layout.w_contract)
    if spec.act is None:
        lhs = floats(flatten(x, layout, w.padded(layout.w_contract)))
        rhs = w.canonical(*roles)
    else:
        act = quantized_in_place(spec, x, w, fed)
        cuts = common_cuts(w.cuts(layout.w_contract), act.cuts(layout.x_contract))
        lhs = act.canonical(layout.x_batch, layout.x_free, layout.x_contract, cuts)
        lhs = as_kernels_take(lhs) if lhs.zero is None else floats(values(lhs))
        rhs = w.canonical(*roles, cuts)
    experts = w.shape[spec.of_experts]

    def by_batch(a: jax.Array) -> jax.Array:
        return jnp.reshape(a, (-1, experts, *a.shape[1:]))

    operands = Operands(
        lhs.codes,
        by_batch(rhs.codes),
        by_batch(rhs.scale),
        _sizes(spec, layout, x, group_sizes),
        lhs.scale,
        None if rhs.zero is None else by_batch(rhs.zero),
    )
    return operands, min(lhs.group, rhs.group)


def _sizes(spec: RaggedSpec, layout: Layout, x: Any, group_sizes: Any) -> jax.Array:
    """How many rows ``[B, E]`` each expert has of the flattened left operand."""
    (_, _), (batch, _) = spec.dims
    inner = math.prod(x.shape[d] for d in layout.x_free if d > spec.ragged)
    shape = tuple(x.shape[d] for d in batch)
    experts = group_sizes.shape[-1]
    if group_sizes.ndim == 1:
        sizes = jnp.broadcast_to(group_sizes, (*shape, experts))
    else:
        sizes = jnp.reshape(group_sizes, (*shape, experts))
    order = (*(batch.index(d) for d in layout.x_batch), len(batch))
    return jnp.reshape(lax.transpose(sizes, order), (-1, experts)).astype(jnp.int32) * inner


def _right(spec: RaggedSpec, layout: Layout, given: QTensor | Layer, one: Operands) -> Right:
    """The experts where they lie, if kernels can read them there."""
    place = replace(layout, w_batch=(*layout.w_batch, spec.of_experts))
    return right_operand(given, place, one.rhs, one.rhs_scale)


def _made(one: Operands) -> Right:
    """The experts as they were made for the product."""
    return Right(one.rhs, one.rhs_scale)


def _multiply(spec: RaggedSpec, group: int, one: Operands, right: Right | None = None) -> jax.Array:
    """The product of one batch ``[M, N]``."""
    right = right or _made(one)
    total = ragged_matmul(
        one.lhs,
        one.lhs_scale,
        right.codes,
        right.scale,
        one.sizes,
        group=group,
        out=_out(spec, one),
        kernels=spec.kernels,
        index=right.index,
        stored=right.stored,
    )
    return total if one.zero is None else _without_zeros(spec, group, one, total)


def _out(spec: RaggedSpec, one: Operands) -> str:
    return spec.out if one.zero is None else "float32"


def _without_zeros(spec: RaggedSpec, group: int, one: Operands, total: jax.Array) -> jax.Array:
    """The product minus what zero points add to it: sums of the rows, by those of their experts."""

    def by_owner(sums: jax.Array, zeros: jax.Array) -> jax.Array:
        sums, zeros = same_groups(sums, zeros)
        ones, count = jnp.ones((*zeros.shape[:2], 1), jnp.float32), zeros.shape[2]
        how = {"group": count, "out": "float32", "kernels": spec.kernels}
        return ragged_matmul(sums[0], None, zeros, ones, one.sizes, **how)[None]

    scale = None if one.lhs_scale is None else one.lhs_scale[None]
    rows = Operand(one.lhs[None], scale, None, group)
    experts = Operand(one.rhs, one.rhs_scale, one.zero, group)
    out = without_zeros(total[None], rows, experts, Sizes((), ()), by_owner)[0]
    return sealed(out.astype(spec.out))
