"""Codes of a forward product in a backward product, which sums over other axes."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.graph.dimensions import remaining
from qpass.numerics import QTensor
from qpass.ops.dot_spec import DotSpec
from qpass.ops.straight_through import dequantize


def roles(spec: DotSpec, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of the operand that is no gradient: contracted here, and in the forward product."""
    return tuple(sorted(spec.dims[0][spec.weight])), spec.free(spec.weight, ndim)


def with_scales(g: jax.Array, q: QTensor, spec: DotSpec) -> tuple[jax.Array, Any]:
    """The scales of ``q`` along contracted axes multiplied into ``g``.

    Where they cannot be, as those of groups of an axis that stays, what q stands for is quantized
    anew.
    """
    side = spec.weight
    contract, _ = roles(spec, q.ndim)
    if not any(
        cut == 1 and q.shape[d] > 1 for d, cut in zip(contract, q.cuts(contract), strict=True)
    ):
        return g, q
    g_axes, q_axes = ((*spec.dims[1][k], *spec.dims[0][k]) for k in (1 - side, side))
    own = remaining(q.ndim, q_axes)
    plain = q.plain().in_order()
    if q.zero is not None or any(plain.scale.shape[d] > 1 for d in own) or plain.groups:
        return g, dequantize(q)
    kept = lax.squeeze(plain.scale, own)
    names = remaining(q.ndim, own)
    order = sorted(range(len(g_axes)), key=g_axes.__getitem__)
    kept = lax.transpose(kept, [names.index(q_axes[k]) for k in order])
    kept = lax.expand_dims(kept, remaining(g.ndim, g_axes))
    ones = jnp.ones((1,) * q.ndim, jnp.float32)
    return g.astype(jnp.float32) * kept, replace(plain, scale=ones)
