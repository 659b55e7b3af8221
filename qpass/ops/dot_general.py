"""The quantized ``dot_general``: one quantized operand (the weight), the other float or quantized.

Forward: the float operand is brought to ``[B, M, K]``, quantized there if the scheme says so, and
multiplied by the weight's codes ``[B, N, K]`` in a kernel. Backward: straight-through; the products
for the gradients are ordinary ``dot_general`` on the values that the forward used, or quantized
themselves (`qpass.ops.backward`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from qpass.graph._jax import varying_axes
from qpass.graph.dataflow import QUANTIZED_SCOPE
from qpass.numerics import Operand, QTensor, Quantizer, common_cuts, quantize
from qpass.ops.axes_of_product import Dims, Layout, flatten, flatten_like_result, lay_out, restore
from qpass.ops.in_place import Right, right_operand
from qpass.ops.layer import Layer, tensor
from qpass.ops.matmul import describe, quantized_matmul
from qpass.ops.rows import is_by_rows, quantize_rows
from qpass.ops.sharded import product_of_codes
from qpass.ops.static import whole_range
from qpass.ops.straight_through import dequantize, straight_through
from qpass.ops.straight_through import without_clipped as clipped_away
from qpass.ops.zero_points import KernelCall, Sizes, kernel_call, unchanged
from qpass_kernels import Kernel, Product
from qpass_kernels.epilogue import Epilogue


class Derivative(Protocol):
    """How one operand's tangent is multiplied, where its transpose is no float product."""

    def tangent(self, spec: "DotSpec", t: jax.Array, y: Any, fed: dict) -> jax.Array:
        """The product of the tangent ``t`` and the other operand ``y``."""
        ...


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
        dlhs: the derivative by the activation; None: straight-through in float.
        drhs: by the weight.
    """

    dims: Dims
    weight: int
    act: Quantizer | None
    out: str
    precision: Any
    kernels: tuple[Kernel, ...]
    sharding: Any = None
    dlhs: Derivative | None = None
    drhs: Derivative | None = None


# Jitted so that products of one shape are traced once, however many layers there are.
@partial(jax.jit, static_argnums=0)
def quantized_dot(spec: DotSpec, x: jax.Array, w: QTensor | Layer, fed: Any = None) -> jax.Array:
    """The product of float ``x`` and quantized ``w``, in ``dot_general``'s own output layout.

    Args:
        spec: dimension numbers, which operand ``w`` is, and how to quantize ``x``.
        x: float array.
        w: the weight; its latent float array, if any, receives the weight's gradient. A layer is
            read inside of its stack where the kernel can.
        fed: what the site is handed from outside (`qpass.given`); None for nothing.
    """
    given, fed = fed or {}, lax.stop_gradient(fed or {})
    if spec.act is not None and spec.act.is_masked:
        x = without_clipped(spec, x, tensor(w), given)
    # The latent weight stays the last array: `_jvp` finds its tangent there.
    arrays, tree = jax.tree.flatten((fed, w))
    return _dot((spec, tree), x, *arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dot(static: tuple, x: jax.Array, *arrays: jax.Array) -> jax.Array:
    spec, tree = static
    fed, given = jax.tree.unflatten(tree, arrays)
    w = tensor(given)
    if spec.sharding is not None:
        with jax.named_scope(QUANTIZED_SCOPE):
            return sharded_dot(spec, x, w, fed)
    return product(spec, x, given, fed)


@dataclass(frozen=True)
class Follow:
    """What follows a product in its kernel.

    Attributes:
        epilogue: see `qpass_kernels.epilogue`.
        operands: what it asks for, of the result's shape; the bias with 1 for all axes but those
            that only the weight has.
        out: dtype name of the result.
    """

    epilogue: Epilogue
    operands: tuple[jax.Array, ...]
    out: str


@dataclass(frozen=True, eq=False)
class Asked:
    """A product as a kernel is asked for it.

    Attributes:
        spec: the product.
        layout: the order of its axes.
        call: what the kernel gets, and what is done to its result.
        right: the right operand, where it lies.
        shapes: of the activation and the weight.
    """

    spec: DotSpec
    layout: Layout
    call: KernelCall
    right: Right
    shapes: tuple[tuple, tuple]

    def answered(self, follow: Follow | None = None) -> jax.Array:
        """The product by the kernel; with something after it only where `is_plain`."""
        lhs, _, _, *rest = self.call.operands
        after = {} if follow is None else _in_layout(self.spec, self.layout, follow, lhs.shape[0])
        out = quantized_matmul(
            lhs,
            rest[0] if rest else None,
            self.right.codes,
            self.right.scale,
            group=self.call.group,
            out=self.call.out if follow is None else follow.out,
            kernels=self.spec.kernels,
            index=self.right.index,
            stored=self.right.stored,
            **after,
        )
        return self.made_of(out)

    def made_of(self, out: jax.Array) -> jax.Array:
        """The product, from the kernel's result."""
        spec = self.spec
        return restore(self.call.finish(out), self.layout, spec.dims, spec.weight, *self.shapes)


def ask(spec: DotSpec, x: jax.Array, given: QTensor | Layer, fed: dict) -> Asked:
    """What a kernel is asked for: ``x``, quantized if it is to be, by the weight."""
    w = tensor(given)
    layout = lay_out(spec.dims, spec.weight, x.ndim, w)
    call = _kernel_call(spec, layout, x, w, fed)
    _, rhs, rhs_scale, *_ = call.operands
    right = right_operand(given, layout, rhs, rhs_scale)
    return Asked(spec, layout, call, right, (x.shape, w.shape))


def product(
    spec: DotSpec, x: jax.Array, given: QTensor | Layer, fed: dict, follow: Follow | None = None
) -> jax.Array:
    """The product by a kernel; with something after it only where `is_plain`."""
    return ask(spec, x, given, fed).answered(follow)


def _in_layout(spec: DotSpec, layout: Layout, follow: Follow, batch: Any) -> dict[str, Any]:
    """What follows a product, as the kernel is given it."""
    extra = []
    for name, value in zip(follow.epilogue.operands, follow.operands, strict=True):
        value = flatten_like_result(value, layout, spec.dims, spec.weight)
        if name == "bias":
            value = jnp.broadcast_to(value.astype(jnp.float32)[:, 0], (batch, value.shape[2]))
        extra.append(value if name == "bias" else value.astype(follow.out))
    return {"epilogue": follow.epilogue, "extra": extra}


def _jvp(static: tuple, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    out = _dot(static, *primals)
    return out, product_tangent(static, primals, tangents, out)


def product_tangent(static: tuple, primals: tuple, tangents: tuple, out: jax.Array) -> jax.Array:
    """The tangent of a product ``out``; the other arguments are those of its derivative rule."""
    spec, tree = static
    x, *arrays = primals
    fed, w = jax.tree.unflatten(tree, arrays)
    w = tensor(w)
    dx, dw = tangents[0], tangents[-1] if w.latent is not None else None
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(
            spec.dlhs.tangent(spec, dx, w, fed) if spec.dlhs else float_dot(spec, dx, dequantize(w))
        )
    if dw is not None and not isinstance(dw, SymbolicZero):
        terms.append(
            spec.drhs.tangent(spec, dw, x, fed)
            if spec.drhs
            else float_dot(spec, seen(spec, x, w, fed), dw)
        )
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(out)


_dot.defjvp(_jvp, symbolic_zeros=True)


def float_dot(spec: DotSpec, x: Any, w: Any) -> jax.Array:
    """The product in float: ``x`` for the activation, ``w`` for the weight."""
    lhs, rhs = (w, x) if spec.weight == 0 else (x, w)
    return lax.dot_general(
        lhs,
        rhs,
        spec.dims,
        precision=spec.precision,
        preferred_element_type=jnp.dtype(spec.out),
        out_sharding=spec.sharding,
    )


def seen(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """``x`` as the forward product saw it: quantized and back, in its own layout."""
    return x if spec.act is None else straight_through(_as_quantized(_value, spec, x, w, fed), x)


def without_clipped(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """``x``, through which no gradient flows where its quantizer clips it.

    A learned range that the site is fed has a gradient, too.
    """
    features = math.prod(x.shape[d] for d in spec.dims[0][1 - spec.weight])
    bounds = fed.get("bounds", {}).get("act")

    def kept(x: jax.Array, q: QTensor, quantizer: Quantizer) -> jax.Array:
        return clipped_away(x, q, quantizer, bounds, features)

    return _as_quantized(kept, spec, x, w, lax.stop_gradient(fed))


def _value(x: jax.Array, q: QTensor, quantizer: Quantizer) -> jax.Array:
    return q.dequantize()


def _as_quantized(ask: Callable, spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """What ``ask(x, q, quantizer)`` says of each element, in the layout of ``x``."""
    assert spec.act is not None
    return ask(x, quantized_in_place(spec, x, w, fed), spec.act)


def sharded_dot(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """The product where shardings are part of the types: JAX's own ``dot_general`` on codes.

    Kernels take ``[B, M, K]``, and merging sharded axes to that would gather them. Scales within
    the contracted axes cannot be applied afterwards, so such operands are dequantized.
    """
    w = w.plain().in_order()
    if dequantized_because(spec, x, w, fed):
        return float_dot(spec, seen(spec, x, w, fed), dequantize(w))
    xq = quantized_in_place(spec, x, w, fed).plain().in_order()
    pair = (w, xq) if spec.weight == 0 else (xq, w)
    out = product_of_codes(pair, spec.dims, spec.sharding)
    return out.astype(spec.out)


def dequantized_because(spec: DotSpec, x: Any, w: QTensor, fed: dict) -> str:
    """Why a product with shardings in its types is one of floats; "" where it is one of codes."""
    if spec.act is None:
        return "the activation is float"
    shape = jax.eval_shape(lambda x, w: quantized_in_place(spec, x, w, fed), x, w)
    operands = (("weight", w, spec.weight), ("activation", shape, 1 - spec.weight))
    cut = [name for name, q, side in operands if any(q.cuts(spec.dims[0][side]))]
    return f"scales along the contracted axes of the {' and the '.join(cut)}" if cut else ""


def quantized_in_place(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> QTensor:
    """The activation quantized in its own layout; groups lie along the axis that ends K."""
    assert spec.act is not None
    contract = lay_out(spec.dims, spec.weight, x.ndim, w).x_contract
    return _quantize_act(x, spec.act, contract, fed, spec.kernels)


def own_key(fed: dict | None, operand: int, x: jax.Array) -> jax.Array | None:
    """The key of ``x``, the activation (0) or the weight (1), where the site is fed one.

    Devices of a ``shard_map`` that hold other parts of ``x`` have other keys. Those that hold the
    same must round alike, so only axes that ``x`` varies over count.
    """
    key = (fed or {}).get("key")
    if key is None:
        return None
    places = [lax.axis_index(axis) for axis in sorted(varying_axes(x), key=str)]
    return reduce(jax.random.fold_in, [operand, *places], key)


def _quantize_act(
    x: jax.Array, act: Quantizer, contract: tuple[int, ...], fed: dict, kernels: tuple[Kernel, ...]
) -> QTensor:
    """The activation quantized, with what its site is fed for that."""
    act, bounds = whole_range(act, fed.get("bounds", {}).get("act"), x.ndim)
    if bounds is None and is_by_rows(x, act, contract):
        return quantize_rows(x, act, len(contract), kernels)
    return quantize(x, act, contract, bounds=bounds, key=own_key(fed, 0, x))


def _kernel_call(spec: DotSpec, layout: Layout, x: Any, w: QTensor, fed: dict) -> KernelCall:
    """What the kernel is asked for; both operands are cut in groups where one of them is."""
    sizes = tuple(w.shape[d] for d in layout.w_contract)
    roles = (layout.w_batch, layout.w_free, layout.w_contract)
    if spec.act is None:
        padded = w.padded(layout.w_contract)
        lhs = floats(flatten(x, layout, padded))
        return kernel_call(lhs, w.canonical(*roles), Sizes(sizes, padded), spec.out)
    act = quantized_in_place(spec, x, w, fed)
    cuts = common_cuts(w.cuts(layout.w_contract), act.cuts(layout.x_contract))
    lhs = act.canonical(layout.x_batch, layout.x_free, layout.x_contract, cuts)
    padded = w.padded(layout.w_contract, cuts)
    rhs = w.canonical(*roles, cuts)
    return kernel_call(as_kernels_take(lhs), rhs, Sizes(sizes, padded), spec.out)


def floats(x: jax.Array) -> Operand:
    """Float ``[B, M, K]`` as an operand."""
    return Operand(x, None, None, x.shape[2])


def as_kernels_take(lhs: Operand) -> Operand:
    """Kernels take no floats with scales on the left: those of tables are multiplied here."""
    if lhs.codes.dtype != jnp.float32:
        return lhs
    scale = lhs.scale
    if scale.shape[2] > 1:
        scale = jnp.repeat(scale, lhs.group, 2)[..., : lhs.codes.shape[2]]
    return floats(lhs.codes * scale)


def is_plain(spec: DotSpec, x: Any, w: QTensor) -> bool:
    """Whether nothing is left to do with a kernel's result: no operand has zero points."""
    known: list[bool] = []

    def look(x: Any, w: QTensor) -> tuple[jax.Array, ...]:
        layout = lay_out(spec.dims, spec.weight, x.ndim, w)
        call = _kernel_call(spec, layout, x, w, {"key": jax.random.key(0)})
        known.append(call.finish is unchanged)
        return call.operands

    jax.eval_shape(look, x, w)
    return known[-1]


def product_of(spec: DotSpec, x: Any, w: QTensor) -> Product:
    """The kernels' description of this product, from shapes alone."""
    known: list[tuple] = []

    def operands(x: Any, w: QTensor) -> tuple[jax.Array, ...]:
        layout = lay_out(spec.dims, spec.weight, x.ndim, w)
        call = _kernel_call(spec, layout, x, w, {"key": jax.random.key(0)})
        lhs, rhs, rhs_scale, *rest = call.operands
        right = right_operand(w, layout, rhs, rhs_scale)
        known.append((call.group, call.out, right.stored))
        return lhs, right.codes, right.scale, *rest

    shapes = jax.eval_shape(operands, x, w)
    return describe(shapes, *known[-1])
