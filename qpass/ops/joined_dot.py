"""Quantized products of one activation, which is quantized once and multiplied in one call.

What `qpass.graph.regions` calls an action: `Joined` computes all sites of a region. Values and
derivatives are those of the sites one by one, bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from qpass.graph._jax import Literal
from qpass.graph.regions import Member
from qpass.numerics import QTensor
from qpass.ops.asked import Asked, ask
from qpass.ops.dot_general import FORMS, masked, product_tangent
from qpass.ops.dot_op import dot_spec
from qpass.ops.dot_spec import DotSpec
from qpass.ops.joined_matmul import joined_matmul
from qpass.ops.layer import Layer
from qpass.ops.operations import QTensorOperations

Weight = QTensor | Layer


@dataclass(frozen=True)
class Joined:
    """The action of a region of products that share their activation."""

    def __call__(
        self, operations: QTensorOperations, members: Sequence[Member], inputs: Mapping[Any, Any]
    ) -> Mapping[Any, Any] | None:
        """Each product's result; None where a weight is not stored or a site is fed something."""
        specs = tuple(dot_spec(m.decision, m.eqn, operations.kernels) for m in members)
        pairs = list(zip(specs, members, strict=True))
        ws = [inputs.get(m.eqn.invars[spec.weight]) for spec, m in pairs]
        x = members[0].eqn.invars[1 - specs[0].weight]
        if any(m.fed for m in members) or isinstance(x, Literal):
            return None
        if not all(map(operations.is_wrapped, ws)):
            return None
        outs = quantized_dots(specs, operations.unwrap(inputs[x]), tuple(ws))
        return {m.eqn.outvars[0]: out for m, out in zip(members, outs, strict=True)}


# Jitted so that products of the same shapes are traced once, however many layers there are.
@partial(jax.jit, static_argnums=0)
def quantized_dots(
    specs: tuple[DotSpec, ...], x: jax.Array, ws: tuple[Weight, ...]
) -> list[jax.Array]:
    """What `qpass.ops.dot_general.quantized_dot` gives for each of several weights.

    Args:
        specs: of each product; all quantize ``x`` alike and contract the same axes of it.
        x: float array.
        ws: the weights.
    """
    x = masked(specs[0], x, ws[0], {})
    flat = [jax.tree.flatten(({}, (), w)) for w in ws]
    static = tuple((spec, tree) for spec, (_, tree) in zip(specs, flat, strict=True))
    return _dots(static, x, *(tuple(arrays) for arrays, _ in flat))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _dots(static: tuple, x: jax.Array, *weights: tuple) -> list[jax.Array]:
    asked = [
        ask(spec, x, jax.tree.unflatten(tree, w)[2], {})
        for (spec, tree), w in zip(static, weights, strict=True)
    ]
    if len({_left(one) for one in asked}) > 1:
        return [one.answered() for one in asked]
    lhs, _, _, *scale = asked[0].call.operands
    outs = joined_matmul(
        lhs,
        scale[0] if scale else None,
        [one.right for one in asked],
        [one.call.group for one in asked],
        [one.call.out for one in asked],
        asked[0].spec.kernels,
    )
    return [one.made_of(out) for one, out in zip(asked, outs, strict=True)]


def _left(asked: Asked) -> tuple:
    """What the left operand of a product depends on beside the activation."""
    lay, (lhs, _, _, *scale) = asked.layout, asked.call.operands
    avals = tuple((a.shape, a.dtype) for a in (lhs, *scale))
    return lay.x_batch, lay.x_free, lay.x_contract, asked.call.group, avals


def _jvp(static: tuple, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    (x, *weights), (dx, *dweights) = primals, tangents
    outs = _dots(static, *primals)
    each = zip(static, weights, dweights, outs, strict=True)
    return outs, [product_tangent(FORMS, s, (x, *w), (dx, *dw), out) for s, w, dw, out in each]


_dots.defjvp(_jvp, symbolic_zeros=True)
