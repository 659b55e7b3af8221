"""``conv_general_dilated`` in the table of operations: convolutions with a quantized kernel.

A convolution sums over its window: over the features and over the spatial axes. So a weight has a
scale for each output channel, and an activation one for each example, or one for all. Gradients go
straight through: the products for them are convolutions of floats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph._jax import JaxprEqn
from qpass.graph.dimensions import dimensions
from qpass.graph.sites import Site, weight_operand
from qpass.numerics import QTensor, Quantizer, Scheme, block_sizes
from qpass.ops.asked import quantized_in_place
from qpass.ops.conv_forms import form_on, forms
from qpass.ops.dot_general import masked, seen
from qpass.ops.dot_spec import DotSpec
from qpass.ops.layer import Layer, tensor
from qpass.ops.op import Decided, Op, Ran
from qpass.ops.sharded import explicit_sharding
from qpass.ops.straight_through import dequantize, tangent_of
from qpass.ops.window import Window, window_of
from qpass_kernels import Kernel

LEFT = "its weight is the operand that windows are taken of: convolve with the weight as the kernel"
OF_KERNEL = "the gradient of a convolution's kernel stays float"
BY_EXAMPLES = "batch_group_count {}: each kernel sees other examples; map one convolution instead"
SUMS = "sums of convolutions are of the result's dtype: leave accumulate= out"
SHARDED = "shardings are part of the types here"
ALONG = (
    "the {} would have scales along axis {}, which the convolution sums over: give it {}, or leave "
    "it float"
)
FITTING = {
    "weight": "one for each output channel ('int8') or for all ('int8 tensor')",
    "activation": "one for each example ('int8') or for all ('int8 tensor')",
}


@dataclass(frozen=True)
class ConvSpec:
    """A convolution with a quantized kernel.

    Attributes:
        dot: its operands, result and activation, as of a plain product.
        window: how the kernel is laid over the input.
    """

    dot: DotSpec
    window: Window


def _why_not(site: Site) -> str | None:
    examples, out = site.eqn.params["batch_group_count"], site.eqn.outvars[0].aval
    if site.role == "drhs":
        return OF_KERNEL
    if weight_operand(site) == 0:
        return LEFT
    if examples != 1:
        return BY_EXAMPLES.format(examples)
    if 0 in out.shape:
        return "empty product"
    return SHARDED if explicit_sharding(out) is not None else None


def _why_not_scheme(site: Site, scheme: Scheme) -> str | None:
    if scheme.accumulate:
        return SUMS
    sides = (("activation", scheme.act), ("weight", scheme.weight))
    for (name, quantizer), v, contract in zip(sides, site.eqn.invars, site.contract, strict=True):
        along = quantizer and _scales_along(quantizer, v.aval.shape, contract)
        if along:
            return ALONG.format(name, along[-1], FITTING[name])
    return None


def _scales_along(quantizer: Quantizer, shape: tuple, contract: Sequence[int]) -> list[int]:
    """Contracted axes along which it would give more than one scale."""
    blocks = block_sizes(shape, quantizer.granularity, tuple(sorted(contract)))
    return [d for d in sorted(contract) if blocks[d] != shape[d]]


def _spec(decision: Decided, eqn: JaxprEqn, kernels: tuple[Kernel, ...]) -> ConvSpec:
    dot = DotSpec(
        dims=dimensions(eqn),
        weight=decision.weight,
        act=decision.scheme.act,
        out=eqn.outvars[0].aval.dtype.name,
        precision=eqn.params["precision"],
        kernels=kernels,
    )
    return ConvSpec(dot, window_of(eqn))


def _run(spec: ConvSpec, x: Any, w: Any, others: tuple, fed: Any) -> Any:
    return quantized_conv(spec, x, w, fed)


# Jitted so that convolutions of one shape are traced once, however many layers there are.
@partial(jax.jit, static_argnums=0)
def quantized_conv(spec: ConvSpec, x: jax.Array, w: QTensor | Layer, fed: Any = None) -> jax.Array:
    """The convolution of float ``x`` with the quantized kernel ``w``.

    Args:
        spec: the window, and how to quantize ``x``.
        x: float array.
        w: the kernel; its latent float array, if any, receives its gradient.
        fed: what the site is handed from outside (`qpass.given`); None for nothing.
    """
    kernel = tensor(w)
    given, fed = fed or {}, lax.stop_gradient(fed or {})
    x = masked(spec.dot, x, kernel, given)
    # The latent weight stays the last array: `_jvp` finds its tangent there.
    arrays, tree = jax.tree.flatten((fed, kernel))
    return _conv((spec, tree), x, *arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _conv(static: tuple, x: jax.Array, *arrays: jax.Array) -> jax.Array:
    spec, tree = static
    fed, w = jax.tree.unflatten(tree, arrays)
    act = x if spec.dot.act is None else quantized_in_place(spec.dot, x, w, fed)
    here, elsewhere = forms(spec.dot, spec.window, act, w)
    if here == elsewhere:
        return here(act, w)
    return lax.platform_dependent(act, w, cpu=here, default=elsewhere)


def _jvp(static: tuple, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    spec, tree = static
    x, *arrays = primals
    fed, w = jax.tree.unflatten(tree, arrays)
    out = _conv(static, *primals)

    def by_weight(dx: jax.Array) -> jax.Array:
        return _float_conv(spec, dx, dequantize(w))

    def by_activation(dw: jax.Array) -> jax.Array:
        return _float_conv(spec, seen(spec.dot, x, w, fed), dw)

    dx, dw = tangents[0], tangents[-1] if w.latent is not None else None
    return out, tangent_of(out, (dx, by_weight), (dw, by_activation))


_conv.defjvp(_jvp, symbolic_zeros=True)


def _float_conv(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    return spec.window.convolve(x, w, jnp.dtype(spec.dot.out), spec.dot.precision)


def _ran(spec: ConvSpec, x: Any, w: QTensor, platform: str) -> Ran:
    return form_on(platform, spec.dot, spec.window, x, w).ran(x, w, platform)


CONV = Op("conv_general_dilated", _why_not, _why_not_scheme, _spec, _run, _ran)
