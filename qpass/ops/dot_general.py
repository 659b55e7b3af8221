"""The quantized ``dot_general``: one quantized operand (the weight), the other float or quantized.

Forward: the float operand is brought to ``[B, M, K]``, quantized there if the scheme says so, and
multiplied by the weight's codes ``[B, N, K]`` in a kernel. Backward: straight-through; the products
for the gradients are ordinary ``dot_general`` on the values that the forward used, or quantized
themselves (`qpass.ops.backward`).
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph.dataflow import QUANTIZED_SCOPE
from qpass.numerics import QTensor
from qpass.ops.asked import product, quantized_in_place
from qpass.ops.dot_spec import DotSpec, Forms
from qpass.ops.layer import Layer, tensor
from qpass.ops.sharded import product_of_codes
from qpass.ops.straight_through import (
    dequantize,
    straight_through,
    tangent_of,
    without_clipped,
)


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
    x = masked(spec, x, w, given)
    # The latent weight stays the last array: `_jvp` finds its tangent there.
    arrays, tree = jax.tree.flatten((fed, (), w))
    return _dot((spec, tree), x, *arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dot(static: tuple, x: jax.Array, *arrays: jax.Array) -> jax.Array:
    spec, tree = static
    fed, _, given = jax.tree.unflatten(tree, arrays)
    w = tensor(given)
    if spec.sharding is not None:
        with jax.named_scope(QUANTIZED_SCOPE):
            return spec.handed_over(sharded_dot(spec.summed, x, w, fed))
    return spec.handed_over(product(spec.summed, x, given, fed))


def _jvp(static: tuple, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    out = _dot(static, *primals)
    return out, product_tangent(FORMS, static, primals, tangents, out)


def product_tangent(
    forms: Forms, static: tuple, primals: tuple, tangents: tuple, out: jax.Array
) -> jax.Array:
    """The tangent of a product ``out``; the others are those of its derivative rule.

    Args:
        forms: how products of the primitive are computed.
        static: the spec, and the tree of what is fed, the operands after these two and the weight.
        primals: the activation, and the arrays of that tree.
        tangents: theirs; that of the weight's latent array comes last.
        out: the product.
    """
    spec, tree = static
    x, *arrays = primals
    fed, others, w = jax.tree.unflatten(tree, arrays)
    w = tensor(w)

    def by_weight(dx: jax.Array) -> jax.Array:
        if spec.dlhs:
            return spec.dlhs.tangent(forms, spec, dx, w, others, fed)
        return forms.floats(spec, dx, dequantize(w), others)

    def by_activation(dw: jax.Array) -> jax.Array:
        if spec.drhs:
            return spec.drhs.tangent(forms, spec, dw, x, others, fed)
        return forms.floats(spec, seen(spec, x, w, fed), dw, others)

    dx, dw = tangents[0], tangents[-1] if w.latent is not None else None
    return tangent_of(out, (dx, by_weight), (dw, by_activation))


_dot.defjvp(_jvp, symbolic_zeros=True)


def float_dot(spec: DotSpec, x: Any, w: Any, others: tuple = ()) -> jax.Array:
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


def run(spec: DotSpec, x: jax.Array, w: Any, others: tuple, fed: Any) -> jax.Array:
    """`quantized_dot` as an operation and as one of `Forms`."""
    return quantized_dot(spec, x, w, fed)


FORMS = Forms(float_dot, run)


def seen(spec: DotSpec, x: jax.Array, w: QTensor, fed: dict) -> jax.Array:
    """``x`` as the forward product saw it: quantized and back, in its own layout."""
    if spec.act is None:
        return x
    return straight_through(quantized_in_place(spec, x, w, fed).dequantize(), x)


def masked(spec: DotSpec, x: jax.Array, w: QTensor | Layer, fed: dict) -> jax.Array:
    """``x``, through which no gradient flows where a masked quantizer clips it.

    A learned range that the site is fed has a gradient, too.
    """
    if spec.act is None or not spec.act.is_masked:
        return x
    q = quantized_in_place(spec, x, tensor(w), lax.stop_gradient(fed))
    features = math.prod(x.shape[d] for d in spec.dims[0][1 - spec.weight])
    return without_clipped(x, q, spec.act, fed.get("bounds", {}).get("act"), features)


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
