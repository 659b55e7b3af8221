"""``ragged_dot_general``: the products of mixtures of experts, with quantized experts.

Rows of the left operand belong to experts, sorted, and each is multiplied by the matrix of its own.
Scales of the right operand follow from the contraction as everywhere: one for each expert and
column, or groups of the contracted axis. Gradients go straight through, by ragged products of
floats, or are quantized themselves (`qpass.ops.backward`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import QTensor
from qpass.ops import dot_general
from qpass.ops.asked import quantized_in_place
from qpass.ops.decoded import decoded
from qpass.ops.dot_general import masked, product_tangent
from qpass.ops.dot_op import DOT_GENERAL
from qpass.ops.dot_spec import DotSpec, Forms
from qpass.ops.layer import Layer, tensor
from qpass.ops.op import Op, Ran
from qpass.ops.ragged_asked import by_experts, described
from qpass.ops.ragged_rows import has_plain_columns, over_rows
from qpass.ops.ragged_spec import (
    RaggedSpec,
    ragged_spec,
    why_not,
    why_not_backward,
    why_not_scheme,
)
from qpass_kernels import select_ragged

IN_FLOATS = "multiplied as floats: scales along rows, or zero points, where experts divide these"


def run(spec: RaggedSpec | DotSpec, x: Any, w: Any, others: tuple, fed: Any) -> jax.Array:
    """The product as an operation and as one of `Forms`; ``others`` begin with the sizes."""
    if isinstance(spec, RaggedSpec):
        return quantized_ragged(spec, x, w, others[0], fed)
    return dot_general.run(spec, x, w, others, fed)


# Jitted so that products of one shape are traced once, however many layers there are.
@partial(jax.jit, static_argnums=0)
def quantized_ragged(
    spec: RaggedSpec, x: jax.Array, w: QTensor | Layer, group_sizes: jax.Array, fed: Any = None
) -> jax.Array:
    """The ragged product of float ``x`` and quantized ``w``, in JAX's own output layout.

    Args:
        spec: dimension numbers, and how to quantize ``x``.
        x: float array.
        w: the experts; their latent float array, if any, receives their gradient.
        group_sizes: integers ``[E]``, or one list for each batch.
        fed: what the site is handed from outside (`qpass.given`); None for nothing.
    """
    given, fed = fed or {}, lax.stop_gradient(fed or {})
    x = masked(spec, x, w, given)
    # The latent weight stays the last array: `product_tangent` finds its tangent there.
    arrays, tree = jax.tree.flatten((fed, (group_sizes,), w))
    return _ragged((spec, tree), x, *arrays)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _ragged(static: tuple, x: jax.Array, *arrays: jax.Array) -> jax.Array:
    spec, tree = static
    fed, (group_sizes,), given = jax.tree.unflatten(tree, arrays)
    if spec.expert is None:
        return spec.handed_over(over_rows(spec.summed, x, tensor(given), group_sizes, fed))
    return spec.handed_over(by_experts(spec.summed, x, given, group_sizes, fed))


def _jvp(static: tuple, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    out = _ragged(static, *primals)
    return out, product_tangent(FORMS, static, primals, tangents, out)


_ragged.defjvp(_jvp, symbolic_zeros=True)


def float_ragged(spec: RaggedSpec, x: Any, w: Any, others: tuple) -> jax.Array:
    """The product in float: ``x`` for the activation, ``w`` for the weight."""
    lhs, rhs = (w, x) if spec.weight == 0 else (x, w)
    return lax.ragged_dot_general(
        lhs,
        rhs,
        others[0],
        spec.numbers,
        precision=spec.precision,
        preferred_element_type=jnp.dtype(spec.out),
    )


FORMS = Forms(float_ragged, run)


def _ran(spec: RaggedSpec | DotSpec, x: Any, w: QTensor, platform: str) -> Ran:
    if not isinstance(spec, RaggedSpec):
        return DOT_GENERAL.ran(spec, x, w, platform)
    if spec.expert is None:
        return Ran("xla", told=(*decoded(spec, x, w), *_in_floats(spec, x, w)))
    picked = select_ragged(spec.kernels, platform, described(spec.summed, x, w))
    reads = picked.product.table is not None
    return Ran(picked.ragged.name, picked.refused, told=decoded(spec, x, w, reads))


def _in_floats(spec: RaggedSpec, x: Any, w: QTensor) -> tuple[str, ...]:
    """What a plan says of sums over rows that are none of codes."""
    fed = {"key": jax.random.key(0)}
    act = spec.act and jax.eval_shape(lambda x, w: quantized_in_place(spec, x, w, fed), x, w)
    sides = ((w, spec.weight), (act, 1 - spec.weight))
    plain = (q is not None and has_plain_columns(spec, q, side) for q, side in sides)
    return () if all(plain) else (IN_FLOATS,)


RAGGED_DOT = Op(
    "ragged_dot_general", why_not, why_not_scheme, ragged_spec, run, _ran, why_not_backward
)
