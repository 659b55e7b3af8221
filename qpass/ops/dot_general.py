"""The quantized ``dot_general``: one quantized operand (the weight), the other float or quantized.

Forward: the float operand is brought to ``[B, M, K]``, quantized there if the scheme says so, and
multiplied by the weight's codes ``[B, N, K]`` in a kernel. Backward: straight-through; the products
for the gradients are ordinary ``dot_general`` on the values that the forward used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from qpass.graph.dataflow import QUANTIZED_SCOPE
from qpass.numerics import PerGroup, QTensor, Quantizer, quantize
from qpass.numerics.clipping import in_range
from qpass.ops.matmul import describe, quantized_matmul
from qpass.ops.sharded import product_of_codes
from qpass.ops.static import whole_range
from qpass.ops.straight_through import dequantize, straight_through
from qpass_kernels import Kernel, Product

Dims = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class DotSpec:
    """A ``dot_general`` with a quantized weight.

    Attributes:
        dims: ``((lhs contract, rhs contract), (lhs batch, rhs batch))``.
        weight: which operand is the weight, 0 or 1.
        act: quantizer of the other operand; None keeps it float.
        out: dtype name of the result.
        precision: of the products for the gradients.
        kernels: the kernel table.
        sharding: of the result, where shardings are part of the types (explicit mesh axes).
    """

    dims: Dims
    weight: int
    act: Quantizer | None
    out: str
    precision: Any
    kernels: tuple[Kernel, ...]
    sharding: Any = None


@dataclass(frozen=True)
class Layout:
    """How a ``dot_general`` maps to ``[B, M, K] x [B, N, K]``: axes of both operands, in order."""

    x_batch: tuple[int, ...]
    x_free: tuple[int, ...]
    x_contract: tuple[int, ...]
    w_batch: tuple[int, ...]
    w_free: tuple[int, ...]
    w_contract: tuple[int, ...]


def normalize_dims(dimension_numbers: Any) -> Dims:
    """Dimension numbers as tuples of plain ints, so that they can be compared and hashed."""
    (lc, rc), (lb, rb) = dimension_numbers
    ints = [tuple(int(d) for d in part) for part in (lc, rc, lb, rb)]
    return (ints[0], ints[1]), (ints[2], ints[3])


# Jitted so that products of one shape are traced once, however many layers there are.
@partial(jax.jit, static_argnums=0)
def quantized_dot(spec: DotSpec, x: jax.Array, w: QTensor, fed: Any = None) -> jax.Array:
    """The product of float ``x`` and quantized ``w``, in ``dot_general``'s own output layout.

    Args:
        spec: dimension numbers, which operand ``w`` is, and how to quantize ``x``.
        x: float array.
        w: the weight; its latent float array, if any, receives the weight's gradient.
        fed: what the site is handed from outside (`qpass.given`); None for nothing.
    """
    fed = lax.stop_gradient(fed or {})
    if spec.act is not None and spec.act.is_masked:
        x = _without_clipped(spec, x, w, fed)
    # The latent weight stays the last array: `_jvp` finds its tangent there.
    arrays, tree = jax.tree.flatten((fed, w))
    return _dot((spec, tree), x, *arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dot(static: tuple, x: jax.Array, *arrays: jax.Array) -> jax.Array:
    spec, tree = static
    fed, w = jax.tree.unflatten(tree, arrays)
    if spec.sharding is not None:
        with jax.named_scope(QUANTIZED_SCOPE):
            return sharded_dot(spec, x, w, fed)
    layout = lay_out(spec, x.ndim, w)
    operands, group = _operands(spec, layout, x, w, fed)
    lhs, rhs, rhs_scale, *rest = operands
    out = quantized_matmul(
        lhs,
        rest[0] if rest else None,
        rhs,
        rhs_scale,
        group=group,
        out=spec.out,
        kernels=spec.kernels,
    )
    return _restore(spec, layout, out, x.shape, w.shape)


def _jvp(static: tuple, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    spec, tree = static
    x, *arrays = primals
    fed, w = jax.tree.unflatten(tree, arrays)
    out = _dot(static, *primals)
    dx, dw = tangents[0], tangents[-1] if w.latent is not None else None
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_float_dot(spec, dx, dequantize(w)))
    if dw is not None and not isinstance(dw, SymbolicZero):
        terms.append(_float_dot(spec, _seen(spec, x, w, fed), dw))
    tangent = sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)
    return out, tangent


_dot.defjvp(_jvp, symbolic_zeros=True)


def _float_dot(spec: DotSpec, x: Any, w: Any) -> jax.Array:
    lhs, rhs = (w, x) if spec.weight == 0 else (x, w)
    return lax.dot_general(
        lhs,
        rhs,
        spec.dims,
        precision=spec.precision,
        preferred_element_type=jnp.dtype(spec.out),
        out_sharding=spec.sharding,
    )


def _seen(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """``x`` as the forward product saw it: quantized and back, in its own layout."""
    return x if spec.act is None else straight_through(_as_quantized(_value, spec, x, w, fed), x)


def _without_clipped(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """``x``, through which no gradient flows where its quantizer clips it."""
    return jnp.where(_as_quantized(in_range, spec, x, w, fed), x, lax.stop_gradient(x))


def _value(x: jax.Array, q: QTensor, quantizer: Quantizer) -> jax.Array:
    return q.dequantize()


def _as_quantized(ask: Callable, spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """What ``ask(x, q, quantizer)`` says of each element, in the layout of ``x``."""
    assert spec.act is not None
    if spec.sharding is not None:
        return ask(x, _in_place(spec, x, fed), spec.act)
    layout = lay_out(spec, x.ndim, w)
    sizes = w.padded(layout.w_contract)
    flat = _canonical_float(x, layout, sizes)
    group = w.canonical(layout.w_batch, layout.w_free, layout.w_contract).group
    act = _act_quantizer(spec.act, flat, group)
    said = ask(flat, _quantize_act(flat, act, (2,), fed), act)
    return _uncanonical_float(said, layout, x.shape, sizes)


def sharded_dot(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """The product where shardings are part of the types: JAX's own ``dot_general`` on codes.

    Kernels take ``[B, M, K]``, and merging sharded axes to that would gather them. Scales within
    the contracted axes cannot be applied afterwards, so such weights are dequantized.
    """
    w_contract = spec.dims[0][spec.weight]
    w = w.in_order()
    if spec.act is None or any(w.scale.shape[d] != 1 for d in w_contract):
        return _float_dot(spec, _seen(spec, x, w, fed), dequantize(w))
    xq = _in_place(spec, x, fed)
    pair = (w, xq) if spec.weight == 0 else (xq, w)
    out = product_of_codes(pair, spec.dims, spec.sharding)
    return out.astype(spec.out)


def _in_place(spec: DotSpec, x: jax.Array, fed: dict) -> QTensor:
    """The activation quantized in its own layout."""
    assert spec.act is not None
    return _quantize_act(x, spec.act, spec.dims[0][1 - spec.weight], fed).in_order()


def _quantize_act(x: jax.Array, act: Quantizer, contract: tuple[int, ...], fed: dict) -> QTensor:
    """The activation quantized, with what its site is fed for that."""
    act, bounds = whole_range(act, fed.get("bounds", {}).get("act"), x.ndim)
    return quantize(x, act, contract, bounds=bounds)


def lay_out(spec: DotSpec, x_ndim: int, w: QTensor) -> Layout:
    """Choose the order of axes so that the weight's codes need not move."""
    contract, batch = spec.dims
    x_contract, w_contract = contract[1 - spec.weight], contract[spec.weight]
    x_batch, w_batch = batch[1 - spec.weight], batch[spec.weight]
    pair = dict(zip((*w_contract, *w_batch), (*x_contract, *x_batch), strict=True))
    w_contract, w_batch = w.operand_order(w_contract), w.operand_order(w_batch)
    return Layout(
        x_batch=tuple(pair[d] for d in w_batch),
        x_free=_rest(x_ndim, (*x_contract, *x_batch)),
        x_contract=tuple(pair[d] for d in w_contract),
        w_batch=w_batch,
        w_free=w.operand_order(_rest(w.ndim, (*w_contract, *w_batch))),
        w_contract=w_contract,
    )


def _rest(ndim: int, taken: Sequence[int]) -> tuple[int, ...]:
    return tuple(d for d in range(ndim) if d not in taken)


def _operands(spec: DotSpec, layout: Layout, x: Any, w: QTensor, fed: dict) -> tuple[tuple, int]:
    """Kernel operands ``(lhs, rhs, rhs_scale[, lhs_scale])`` and the group size."""
    rhs, rhs_scale, zero, group = w.canonical(layout.w_batch, layout.w_free, layout.w_contract)
    lhs = _canonical_float(x, layout, w.padded(layout.w_contract))
    if spec.act is None:
        return (lhs, rhs, rhs_scale), group
    act = _quantize_act(lhs, _act_quantizer(spec.act, lhs, group), (2,), fed)
    codes, lhs_scale, act_zero, act_group = act.canonical((0,), (1,), (2,))
    assert zero is None
    assert act_zero is None
    # Kernels take a short last group: the zeros that fill it up would have to be added to rhs too.
    codes = lax.slice_in_dim(codes, 0, lhs.shape[2], axis=2)
    return (codes, rhs, rhs_scale, lhs_scale), min(group, act_group)


def _act_quantizer(act: Quantizer, lhs: jax.Array, group: int) -> Quantizer:
    """Where both operands are grouped, the activation is cut where the weight is.

    The weight's groups may be smaller than asked: they end at its innermost contracted axis.
    """
    both = isinstance(act.granularity, PerGroup) and group < lhs.shape[2]
    return replace(act, granularity=PerGroup(group)) if both else act


def _canonical_float(x: jax.Array, layout: Layout, sizes: tuple[int, ...]) -> jax.Array:
    """``x`` as ``[B, M, K]``, contracted axes padded with zeros to ``sizes``."""
    b, f = len(layout.x_batch), len(layout.x_free)
    x = lax.transpose(x, (*layout.x_batch, *layout.x_free, *layout.x_contract))
    if x.shape[b + f :] != sizes:
        tail = [0] * (b + f) + [s - n for s, n in zip(sizes, x.shape[b + f :], strict=True)]
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, t, 0) for t in tail])
    return lax.reshape(x, (_size(x.shape[:b]), _size(x.shape[b : b + f]), _size(x.shape[b + f :])))


def _uncanonical_float(
    flat: jax.Array, layout: Layout, shape: tuple[int, ...], sizes: tuple[int, ...]
) -> jax.Array:
    order = (*layout.x_batch, *layout.x_free, *layout.x_contract)
    outer = tuple(shape[d] for d in (*layout.x_batch, *layout.x_free))
    inner = tuple(shape[d] for d in layout.x_contract)
    full = lax.reshape(flat, (*outer, *sizes))
    cut = lax.slice(full, [0] * full.ndim, (*outer, *inner)) if sizes != inner else full
    return lax.transpose(cut, tuple(order.index(d) for d in range(len(shape))))


def _restore(
    spec: DotSpec, layout: Layout, out: jax.Array, x_shape: tuple, w_shape: tuple
) -> jax.Array:
    """``[B, M, N]`` to batch, lhs free, rhs free, each in the order of the operand."""
    names = [
        *(("b", d) for d in layout.w_batch),
        *(("x", d) for d in layout.x_free),
        *(("w", d) for d in layout.w_free),
    ]
    shapes = {"b": w_shape, "x": x_shape, "w": w_shape}
    full = lax.reshape(out, tuple(shapes[kind][d] for kind, d in names))
    batch = [("b", d) for d in spec.dims[1][spec.weight]]
    free = [[("x", d) for d in sorted(layout.x_free)], [("w", d) for d in sorted(layout.w_free)]]
    wanted = batch + (free[1] + free[0] if spec.weight == 0 else free[0] + free[1])
    return lax.transpose(full, tuple(names.index(name) for name in wanted))


def _size(shape: Sequence[Any]) -> Any:
    total = 1
    for n in shape:
        total = total * n
    return total


def product_of(spec: DotSpec, x: Any, w: QTensor) -> Product:
    """The kernels' description of this product, from shapes alone."""

    def operands(x, w):
        found, group = _operands(spec, lay_out(spec, x.ndim, w), x, w, {})
        groups.append(group)
        return found

    groups: list[int] = []
    shapes = jax.eval_shape(operands, x, w)
    return describe(shapes, groups[-1], spec.out)
