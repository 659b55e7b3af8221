"""Products where shardings are part of the types (mesh axes of type ``Explicit``)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

from qpass.numerics import QTensor


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
    exact = all(q.qtype.kind == "int" for q in pair)
    codes = [q.codes.astype(jnp.int8) if exact else q.codes for q in pair]
    kind = jnp.int32 if exact else jnp.float32
    out = lax.dot_general(
        codes[0], codes[1], dims, preferred_element_type=kind, out_sharding=sharding
    )
    lhs, rhs = (_along_result(pair, dims, sharding, side) for side in (0, 1))
    return out.astype(jnp.float32) * lhs * rhs


def _along_result(
    pair: tuple[QTensor, QTensor], dims: tuple, sharding: NamedSharding, side: int
) -> jax.Array:
    """Scales of one operand, with the axes and the sharding of the result."""
    contract, batch = dims
    free = [_rest(q.ndim, (*contract[k], *batch[k])) for k, q in enumerate(pair)]
    scale = lax.transpose(pair[side].scale, (*batch[side], *free[side], *contract[side]))
    kept = len(batch[side]) + len(free[side])
    scale = lax.squeeze(scale, range(kept, scale.ndim))
    first = len(batch[side]) if side == 1 else kept
    scale = lax.expand_dims(scale, range(first, first + len(free[1 - side])))
    names = (*sharding.spec, *[None] * (scale.ndim - len(sharding.spec)))
    like = [name if n > 1 else None for name, n in zip(names, scale.shape, strict=True)]
    return reshard(scale, PartitionSpec(*like))


def _rest(ndim: int, taken: Sequence[int]) -> tuple[int, ...]:
    return tuple(d for d in range(ndim) if d not in taken)
