"""TPU: weights decoded in registers, times floats (weight-only) or codes seen as floats."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from qpass_kernels.kernel import VALUES, Kernel, Product, first_reason
from qpass_kernels.tpu.blocks import GROUPED_DEPTH, call, unit

SUBLANES = 8


def supports(product: Product) -> str | None:
    """Take any codes on the right, scaled by rows or by groups of a multiple of 8."""
    grouped = product.rhs_scale == "group" and not product.symbolic
    return first_reason(
        (product.symbolic, f"{', '.join(product.symbolic)} symbolic: the grid needs numbers"),
        (product.foreign, product.foreign or ""),
        ("float16" in (product.lhs, product.out), "no float16 on TPU"),
        (product.lhs == "int4", "int4 lhs"),
        (product.rhs == VALUES, "rhs is values, not codes"),
        (product.lhs_scale == "group", "group scales on lhs"),
        (grouped and product.group % SUBLANES, f"group {product.group} is no multiple of 8"),
        (
            grouped and product.k > GROUPED_DEPTH < unit(product),
            f"group {product.group} and 128 lanes share no block of K up to {GROUPED_DEPTH}",
        ),
    )


def run(
    product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any, interpret: Any = False
) -> Any:
    """Compute the product; sums are float32.

    Codes on the left are multiplied as bfloat16 (which holds them exactly). With group scales the
    weight is decoded to the float type of the left operand, so rounded to bfloat16 if that is one.
    `interpret`: True or a `pltpu.InterpretParams` runs on any platform.
    """
    kind = jnp.float32 if product.lhs == "float32" else jnp.bfloat16
    precision = lax.Precision.HIGHEST if kind == jnp.float32 else lax.Precision.DEFAULT

    def dot(x: Any, w: Any, axis: int) -> Any:
        contract = (((1,), (axis,)), ((), ()))
        return lax.dot_general(
            x.astype(kind), w, contract, precision=precision, preferred_element_type=jnp.float32
        )

    def multiply(x: Any, w: Any, scale: Any) -> Any:
        if scale is None:
            return dot(x, w.astype(kind), 1)
        # Turned so that a group lies along sublanes, its scale is a row repeated over them; along
        # lanes it would have to be spread over parts of a register.
        turned = w.astype(jnp.float32).T
        groups = jnp.reshape(turned, (scale.shape[0], product.group, turned.shape[1]))
        return dot(x, jnp.reshape(groups * scale[:, None, :], turned.shape).astype(kind), 0)

    return call(product, (lhs, lhs_scale, rhs, rhs_scale), multiply, jnp.float32, interpret)


TPU_DECODED = Kernel("tpu_decoded", ("tpu",), supports, run)
