"""Layout equations applied to a QTensor: each returns the moved QTensor, or None to dequantize."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import GatherDimensionNumbers
from jax.sharding import NamedSharding, PartitionSpec

from qpass.graph._jax import JaxprEqn, bind
from qpass.numerics import Packed, QTensor
from qpass.numerics.layout import has_sums_for, plain_scales, stored, stored_as
from qpass.ops.layer import Layer, tensor

Operands = Sequence[Any]


def apply_layout(eqn: JaxprEqn, operands: Operands) -> Any | None:
    """Apply ``eqn`` to a wrapped first operand (any operand for a barrier or a choice).

    Returns:
        a QTensor (a list of results for ``optimization_barrier``), or None where the scales
        cannot follow.
    """
    rule = LAYOUT.get(eqn.primitive.name)
    if rule is None:
        return None
    if eqn.primitive.name not in OF_LAYERS:
        operands = [tensor(value) for value in operands]
    if eqn.primitive.name not in OF_ALL_OPERANDS and not isinstance(operands[0], QTensor | Layer):
        return None
    return rule(eqn, operands)


def _transpose(eqn: JaxprEqn, operands: Operands) -> QTensor | Layer:
    return operands[0].transpose(eqn.params["permutation"])


def _reshape(eqn: JaxprEqn, operands: Operands) -> QTensor | None:
    if eqn.params.get("dimensions") is not None:
        return None
    return operands[0].reshape(eqn.params["new_sizes"])


def _squeeze(eqn: JaxprEqn, operands: Operands) -> QTensor | Layer:
    return operands[0].squeeze(eqn.params["dimensions"])


def _broadcast(eqn: JaxprEqn, operands: Operands) -> QTensor:
    return operands[0].broadcast_in_dim(eqn.params["shape"], eqn.params["broadcast_dimensions"])


def _slice(eqn: JaxprEqn, operands: Operands) -> QTensor | Layer | None:
    p = eqn.params
    return operands[0].slice(p["start_indices"], p["limit_indices"], p["strides"])


def _dynamic_slice(eqn: JaxprEqn, operands: Operands) -> QTensor | None:
    q, *indices = operands
    return q.dynamic_slice(indices, eqn.params["slice_sizes"])


def _rev(eqn: JaxprEqn, operands: Operands) -> QTensor | None:
    return operands[0].rev(eqn.params["dimensions"])


def _convert(eqn: JaxprEqn, operands: Operands) -> QTensor | Layer | None:
    return operands[0].astype(eqn.params["new_dtype"])


def _stop_gradient(eqn: JaxprEqn, operands: Operands) -> QTensor:
    """Codes and scales bring no gradient in any case."""
    q = operands[0]
    return q if q.latent is None else replace(q, latent=lax.stop_gradient(q.latent))


def _select(eqn: JaxprEqn, operands: Operands) -> QTensor | None:
    """A choice between one tensor and itself: only where its gradient goes is chosen."""
    which, first, *others = operands
    if not all(_has_codes_of(q, first) for q in others):
        return None
    latents = [q.latent for q in (first, *others)]
    none = any(latent is None for latent in latents)
    return replace(first, latent=None if none else lax.select_n(which, *latents))


def _has_codes_of(q: Any, first: Any) -> bool:
    same = isinstance(q, QTensor) and isinstance(first, QTensor)
    return same and q.codes is first.codes and q.scale is first.scale


def _each(eqn: JaxprEqn, operands: Operands) -> QTensor | Layer:
    """Equations that mean the same for every array inside: varying axes, copies, names."""
    return jax.tree.map(lambda array: bind(eqn, [array])[0], operands[0])


def _constraint(eqn: JaxprEqn, operands: Operands) -> QTensor | None:
    """``with_sharding_constraint`` on the float weight, said of its codes and scales."""
    q, sharding = operands[0], eqn.params["sharding"]
    if not isinstance(sharding, NamedSharding):
        return None
    specs = partition_specs(q, sharding.spec, sharding.mesh)
    if specs is None:
        return None
    arrays, tree = jax.tree.flatten(q)
    places = [NamedSharding(sharding.mesh, spec) for spec in jax.tree.leaves(specs)]
    return jax.tree.unflatten(tree, map(lax.with_sharding_constraint, arrays, places))


def _barrier(eqn: JaxprEqn, operands: Operands) -> list:
    return list(lax.optimization_barrier(list(operands)))


def _gather(eqn: JaxprEqn, operands: Operands) -> QTensor | None:
    """Rows of a table by index: ``table[ids]``, with whole rows along the first axis.

    `jax.vmap` of ``table[id]`` gathers slices instead: one row long, and whole along other axes,
    along which they start at 0 whatever their index says.
    """
    q, indices = operands
    is_cut = any(axis + q.ndim == 0 for axis, _ in q.groups)
    if is_cut or not takes_rows(eqn, q.shape):
        return None
    q = plain_scales(q if q.physical_order[0] == 0 else q.in_order())
    # A fill value of NaN means nothing as a code: the scale's NaN alone marks a row out of range.
    codes = stored_as(q.codes, _rows(eqn, stored(q.codes), indices, fill_value=0))
    scale = _rows(eqn, _for_rows(q, q.scale), indices)
    zero = None if q.zero is None else _rows(eqn, _for_rows(q, q.zero), indices, fill_value=0)
    latent = None if q.latent is None else _rows(eqn, q.latent, indices)
    return replace(q, codes=codes, scale=scale, zero=zero, sums=None, latent=latent, order=q.order)


def _for_rows(q: QTensor, scale: jax.Array) -> jax.Array:
    """Scales or zero points with one for each row."""
    return jnp.broadcast_to(scale, (q.shape[0], *scale.shape[1:]))


def takes_rows(eqn: JaxprEqn, shape: tuple[int, ...]) -> bool:
    """Whether a ``gather`` looks up whole rows of a table of that shape along its first axis."""
    numbers: GatherDimensionNumbers = eqn.params["dimension_numbers"]
    collapsed, mapped = tuple(numbers.collapsed_slice_dims), tuple(numbers.start_index_map)
    n_out, n_row = eqn.outvars[0].aval.ndim, len(shape) - len(collapsed)
    whole = tuple(eqn.params["slice_sizes"]) == (1, *shape[1:])
    first = (collapsed, mapped) in (((0,), (0,)), ((), tuple(range(len(shape)))))
    last = tuple(numbers.offset_dims) == tuple(range(n_out - n_row, n_out))
    return whole and first and last and not numbers.operand_batching_dims


def _rows(eqn: JaxprEqn, array: jax.Array, indices: jax.Array, **changed: Any) -> jax.Array:
    params = {**eqn.params, "slice_sizes": (1, *array.shape[1:]), **changed}
    return bind(eqn, [array, indices], params)[0]


LAYOUT: Mapping[str, Callable[[JaxprEqn, Operands], Any]] = MappingProxyType(
    {
        "broadcast_in_dim": _broadcast,
        "convert_element_type": _convert,
        "copy": _each,
        "copy_p": _each,
        "dynamic_slice": _dynamic_slice,
        "gather": _gather,
        "name": _each,
        "optimization_barrier": _barrier,
        "pcast": _each,
        "pvary": _each,
        "reduced_vary_cast": _each,
        "reshape": _reshape,
        "rev": _rev,
        "sharding_constraint": _constraint,
        "slice": _slice,
        "squeeze": _squeeze,
        "select_n": _select,
        "stop_gradient": _stop_gradient,
        "transpose": _transpose,
    }
)
OF_ALL_OPERANDS = frozenset({"optimization_barrier", "select_n"})
# What leaves codes where they lie; for the others a layer is cut out of its stack.
OF_LAYERS = frozenset(
    {"convert_element_type", "slice", "squeeze", "transpose"}
    | {"pcast", "pvary", "reduced_vary_cast"}
)


def partition_specs(q: QTensor, spec: PartitionSpec, mesh: Any) -> QTensor | None:
    """Specs for codes and scales that split them as ``spec`` splits the float weight.

    A QTensor whose arrays are PartitionSpecs; None when a split would cut through a group (see
    `shardable`) or a byte.
    """
    logical = (*spec, *([None] * (q.ndim - len(spec))))
    codes = [logical[axis] for axis in q.physical_order]
    if isinstance(q.codes, Packed) and codes[-1] is not None:
        return None
    scale = []
    sizes = zip(codes, q.codes.shape, q.scale.shape, q.physical_blocks, strict=True)
    for names, n, scales, block in sizes:
        if names is None or scales == 1:
            scale.append(None)
            continue
        shard = n // _mesh_size(mesh, names)
        if block > 1 and shard % block:
            return None
        scale.append(names)
    return _specs(q, codes, scale, logical)


def shardable(q: QTensor, spec: PartitionSpec, mesh: Any) -> QTensor:
    """The same tensor with groups that no shard begins or ends inside.

    The scales of a group that is cut are repeated for its parts, so that every shard has those of
    the groups that its elements lie in. Packed codes are unpacked where their bytes would be cut,
    and column sums dropped where a shard has a part of what they sum.
    """
    logical = (*spec, *([None] * (q.ndim - len(spec))))
    if isinstance(q.codes, Packed) and logical[q.physical_order[-1]] is not None:
        q = q.plain()
    sizes = [1 if names is None else _mesh_size(mesh, names) for names in logical]
    cut = {
        axis: math.gcd(block, q.shape[axis] // sizes[axis])
        for axis, block in enumerate(q.blocks)
        if sizes[axis] > 1 and q.scale.shape[q.physical(axis)] > 1
    }
    finer = {axis: block for axis, block in cut.items() if block != q.blocks[axis]}
    if not has_sums_for(q, [axis for axis, n in enumerate(sizes) if n > 1]):
        q = replace(q, sums=None)
    return q.regrouped(finer) if finer else q


def _specs(q: QTensor, codes: Sequence, scale: Sequence, logical: Sequence) -> QTensor:
    """The tensor with a spec in the place of each of its arrays."""
    spec = PartitionSpec(*codes)
    return replace(
        q,
        codes=replace(q.codes, words=spec) if isinstance(q.codes, Packed) else spec,
        scale=PartitionSpec(*scale),
        zero=None if q.zero is None else PartitionSpec(*scale),
        outer=None if q.outer is None else _spec_along(scale, q.outer.shape),
        sums=None if q.sums is None else _spec_along(codes, q.sums.shape),
        latent=None if q.latent is None else PartitionSpec(*logical),
    )


def _spec_along(names: Sequence, sizes: Sequence[int]) -> PartitionSpec:
    """The same split of an array that has size 1 along some axes."""
    pairs = zip(names, sizes, strict=True)
    return PartitionSpec(*(name if n > 1 else None for name, n in pairs))


def _mesh_size(mesh: Any, names: Any) -> int:
    total = 1
    for name in names if isinstance(names, tuple) else (names,):
        total *= mesh.shape[name]
    return total
