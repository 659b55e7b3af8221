"""The quantized ``dot_general``: one quantized operand (the weight), the other float or quantized.

Forward: the float operand is brought to ``[B, M, K]``, quantized there if the scheme says so, and
multiplied by the weight's codes ``[B, N, K]`` in a kernel. Backward: straight-through; the products
for the gradients are ordinary ``dot_general`` on the values that the forward used, or quantized
themselves (`qpass.ops.backward`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from qpass.graph.dataflow import QUANTIZED_SCOPE
from qpass.numerics import QTensor, Quantizer
from qpass.ops.asked import product, quantized_in_place
from qpass.ops.dot_spec import DotSpec
from qpass.ops.layer import Layer, tensor
from qpass.ops.sharded import product_of_codes
from qpass.ops.straight_through import dequantize, straight_through
from qpass.ops.straight_through import without_clipped as clipped_away


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
