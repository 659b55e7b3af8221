"""Products where shardings are part of the types (mesh axes of type ``Explicit``)."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

from qpass.graph.dimensions import remaining
from qpass.numerics import QTensor, kernel_codes
from qpass_kernels.reference import sealed


def explicit_sharding(aval: Any) -> Any:
    """The sharding of ``aval`` where a mesh axis is explicit, part of the type; else None."""
    sharding = getattr(aval, "sharding", None)
    axes = sharding.mesh.axis_types if sharding is not None else ()
    return sharding if AxisType.Explicit in axes else None


def product_of_codes(
    pair: tuple[QTensor, QTensor], dims: tuple, sharding: NamedSharding
) -> jax.Array:
    """The product of two QTensors in logical order, with no scales along contracted axes.

    Args:
        pair: lhs and rhs.
        dims: dimension numbers of the ``dot_general``.
        sharding: of the result.

    Returns:
        float32, with the axes of ``dot_general``'s result, sharded as asked.
    """
    (lhs, rhs), contract = [kernel_codes(q.codes, q.qtype) for q in pair], dims[0]
    exact = all(jnp.issubdtype(x.codes.dtype, jnp.integer) for x in (lhs, rhs))
    codes = [x.codes.astype(jnp.int8) if exact else x.codes for x in (lhs, rhs)]
    out = lax.dot_general(
        codes[0],
        codes[1],
        dims,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.int32 if exact else jnp.float32,
        out_sharding=sharding,
    ).astype(jnp.float32)
    along = partial(_along_result, pair, dims, sharding)
    zeros = [_zero(q, x.shift) for q, x in zip(pair, (lhs, rhs), strict=True)]
    sums = [_sums(x, axes) for x, axes in zip(codes, contract, strict=True)]
    if zeros[0] is not None:
        out = out - sealed(along(zeros[0], 0) * along(sums[1], 1))
    if zeros[1] is not None:
        length = math.prod(pair[0].shape[d] for d in contract[0])
        rest = sums[0] if zeros[0] is None else sums[0] - length * zeros[0]
        out = out - sealed(along(rest, 0) * along(zeros[1], 1))
    return out * along(pair[0].scale * lhs.unit, 0) * along(pair[1].scale * rhs.unit, 1)


def _zero(q: QTensor, shift: int) -> jax.Array | None:
    return None if q.zero is None else q.zero.astype(jnp.float32) - shift


def _sums(codes: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Sums of codes over the contracted axes, which stay with size 1: float32."""
    kind = jnp.int32 if jnp.issubdtype(codes.dtype, jnp.integer) else jnp.float32
    return jnp.sum(codes.astype(kind), axis=axes, keepdims=True).astype(jnp.float32)


def _along_result(
    pair: tuple[QTensor, QTensor], dims: tuple, sharding: NamedSharding, array: jax.Array, side: int
) -> jax.Array:
    """What one operand has for each scale, with the axes and the sharding of the result."""
    contract, batch = dims
    free = [remaining(q.ndim, (*contract[k], *batch[k])) for k, q in enumerate(pair)]
    array = lax.transpose(array, (*batch[side], *free[side], *contract[side]))
    kept = len(batch[side]) + len(free[side])
    array = lax.squeeze(array, range(kept, array.ndim))
    first = len(batch[side]) if side == 1 else kept
    array = lax.expand_dims(array, range(first, first + len(free[1 - side])))
    names = (*sharding.spec, *[None] * (array.ndim - len(sharding.spec)))
    like = [name if n > 1 else None for name, n in zip(names, array.shape, strict=True)]
    return reshard(array, PartitionSpec(*like))
