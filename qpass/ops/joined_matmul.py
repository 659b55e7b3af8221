"""Several quantized products of one left operand as a JAX primitive: one call where a kernel can.

``joined_matmul`` means `qpass.ops.matmul.quantized_matmul` once for each right operand, and that is
what it is lowered as for kernels without ``Kernel.run_joined``. The others get the left operand and
all right ones at once, each where it lies: nothing is put together beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qpass.graph._jax import Primitive
from qpass.numerics import QType
from qpass.ops.by_kernel import run_by_kernel
from qpass.ops.in_place import Right
from qpass.ops.matmul import describe, quantized_matmul
from qpass_kernels import Kernel, select

joined_matmul_p = Primitive("joined_matmul")
joined_matmul_p.multiple_results = True


@dataclass(frozen=True)
class Part:
    """One of the products: what is no array of it.

    Attributes:
        group: elements of K per scale.
        out: dtype name of the result.
        stored: the type of codes that are as they are stored.
        is_layer: whether the right operand is a layer of a stack, which has an index.
    """

    group: int
    out: str
    stored: QType | None
    is_layer: bool


def joined_matmul(
    lhs: jax.Array,
    lhs_scale: jax.Array | None,
    rights: Sequence[Right],
    groups: Sequence[int],
    outs: Sequence[str],
    kernels: tuple[Kernel, ...],
) -> list[jax.Array]:
    """Products ``[B, M, N]`` of one left operand, each with the bits of its own.

    Args:
        lhs: codes ``[B, M, K]``, or floats for weight-only products.
        lhs_scale: float32 ``[B, M, 1 or G]``; None for floats.
        rights: the right operands.
        groups: elements of K per scale, for each.
        outs: dtype names of the results.
        kernels: the table to pick from when lowering.
    """
    parts, operands = [], [lhs] if lhs_scale is None else [lhs, lhs_scale]
    for right, group, out in zip(rights, groups, outs, strict=True):
        parts.append(Part(group, out, right.stored, right.index is not None))
        operands += (x for x in (right.codes, right.scale, right.index) if x is not None)
    params = {"parts": tuple(parts), "is_scaled": lhs_scale is not None, "kernels": kernels}
    return joined_matmul_p.bind(*operands, **params)


def _split(operands: Sequence[Any], parts: tuple[Part, ...], is_scaled: bool) -> tuple:
    """The left operand, its scales, and for each part the right one, its scales and the index."""
    lhs, *rest = operands
    lhs_scale = rest.pop(0) if is_scaled else None
    rights = []
    for part in parts:
        count = 3 if part.is_layer else 2
        rights.append((*rest[:count], *[None] * (3 - count)))
        rest = rest[count:]
    return lhs, lhs_scale, rights


def _apart(*operands: Any, parts: tuple, is_scaled: bool, kernels: tuple) -> list[jax.Array]:
    """What the primitive means."""
    lhs, lhs_scale, rights = _split(operands, parts, is_scaled)
    return [
        quantized_matmul(
            lhs,
            lhs_scale,
            codes,
            scale,
            group=part.group,
            out=part.out,
            kernels=kernels,
            index=index,
            stored=part.stored,
        )
        for part, (codes, scale, index) in zip(parts, rights, strict=True)
    ]


def _run(*operands, parts, is_scaled, kernels, platform):
    lhs, lhs_scale, rights = _split(operands, parts, is_scaled)
    picked = [
        select(
            kernels,
            platform,
            describe(_of_one(lhs, lhs_scale, *right), part.group, part.out, part.stored),
        )
        for part, right in zip(parts, rights, strict=True)
    ]
    kernel = picked[0].kernel
    if kernel.run_joined is None or not _are_alike(picked, parts):
        return _apart(*operands, parts=parts, is_scaled=is_scaled, kernels=kernels)
    products = tuple(p.product for p in picked)
    return kernel.run_joined(products, lhs, lhs_scale, [_as_layer(*right) for right in rights])


def _of_one(lhs: Any, lhs_scale: Any, codes: Any, scale: Any, index: Any) -> tuple[Any, ...]:
    """The operands of one product, as `describe` takes them."""
    return (lhs, codes, scale, *(x for x in (lhs_scale, index) if x is not None))


def _are_alike(picked: Sequence[Any], parts: Sequence[Part]) -> bool:
    """Whether one kernel takes all products, which differ in their columns at most, as they are."""
    kinds = {(p.kernel.name, replace(p.product, n=0)) for p in picked}
    pairs = zip(picked, parts, strict=True)
    decoded = any(part.stored and p.product.table is None for p, part in pairs)
    return len(kinds) == 1 and not decoded


def _as_layer(codes: Any, scale: Any, index: Any) -> tuple[Any, Any, Any]:
    """A layer of a stack; a weight of its own is a stack of one."""
    if index is not None:
        return codes, scale, index
    return jnp.expand_dims(codes, 0), jnp.expand_dims(scale, 0), jnp.int32(0)


def _abstract(*avals: Any, **params: Any) -> list[Any]:
    """Shapes, shardings and varying axes as the separate products have them."""
    return jax.make_jaxpr(partial(_apart, **params))(*avals).out_avals


def _batch(args: tuple, dims: tuple, **params: Any) -> tuple[list, list[int]]:
    """Batching: each product by itself."""
    outs = jax.vmap(partial(_apart, **params), dims)(*args)
    return outs, [0] * len(outs)


run_by_kernel(
    joined_matmul_p,
    ("parts", "is_scaled", "kernels"),
    run=_run,
    abstract=_abstract,
    batch=_batch,
)
