"""Quantized leaves of a checkpoint as a plan stores them, and rules that store them as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass.errors import CheckpointError
from qpass.graph.paths import leaf_path
from qpass.numerics import (
    Packed,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    QTensor,
    Quantizer,
    with_sums,
)
from qpass.numerics.axes import trim_order
from qpass.numerics.granularity import Granularity
from qpass.numerics.packing import pack, unpack
from qpass.ops.weights import Storage, abstract_weight, kind
from qpass.plan import Plan
from qpass.rules import Rule

KEPT_FLOAT = "the rules keep it float"


def storage_of(plan: Plan) -> dict[str, Storage]:
    """How each parameter is stored, by its path; without those that stay float."""
    leaves = plan.program.leaves
    return {leaves[k].path: s for k, s in plan.storage.items() if leaves[k].is_param}


def fitted(q: QTensor, storage: Storage | None, path: str) -> jax.Array | QTensor:
    """A leaf as these rules store it: the same codes, scales and zero points.

    Codes are moved into the order that kernels read, scales repeated where the rules have more of
    them, and zero points added where the rules have them. A leaf that the rules keep float is
    dequantized.

    Raises:
        CheckpointError: the rules store another type, larger groups, or no zero points.
    """
    if storage is None:
        return q.dequantize()
    wanted = abstract_weight(jax.ShapeDtypeStruct(q.shape, q.dtype), storage)
    found = _with_zero(_finer(_ordered(q, wanted.physical_order), wanted), wanted)
    if kind(found) != kind(wanted):
        raise CheckpointError(
            f"Store {path} as it is in the checkpoint, with a rule whose weight is "
            f"'{quantizer_of(q)}' (rules_for gives such rules), or keep it float: these rules have "
            f"'{storage.quantizer}' for it. It is {q}, and they store {wanted}."
        )
    return with_sums(found, storage.contract) if storage.sums else found


def rules_for(params: Any) -> list[Rule]:
    """A rule for each quantized leaf, which stores it as it is: weights alone, activations float.

    Args:
        params: a pytree with QTensors, as `qpass.checkpoint.mapping.fill` gives it.
    """
    return [Rule(path=path, weight=quantizer_of(q)) for path, q in quantized_leaves(params)]


def quantized_leaves(params: Any) -> Iterator[tuple[str, QTensor]]:
    """The QTensors of a tree with their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, QTensor))
    for keys, leaf in leaves:
        if isinstance(leaf, QTensor):
            yield leaf_path(params, keys), leaf


def quantizer_of(q: QTensor) -> Quantizer:
    """What a tensor is quantized to, by its type, groups and zero points."""
    return Quantizer(q.qtype, _granularity(q), symmetric=q.zero is None)


def _granularity(q: QTensor) -> Granularity:
    """Codes lie with what products contract last: how many of those share a scale, if not all."""
    pairs = list(zip(q.physical_blocks, q.codes.shape, strict=True))
    grouped = [block for block, n in pairs if 1 < block < n]
    if len(grouped) > 1:
        return PerBlock(grouped[-2], grouped[-1])
    if all(block == n for block, n in pairs):
        return PerTensor()
    whole = list(takewhile(lambda pair: pair[0] == pair[1], reversed(pairs)))
    shared = math.prod(block for block, _ in whole)
    if (last := pairs[-1 - len(whole)][0]) > 1 or not whole:
        return PerGroup(shared * last)
    # Of one axis alone it may be all that is contracted or a part: as a group it is right for both.
    alone = len(whole) == 1 and q.ndim > 2 and q.order != (-1, -2)
    return PerGroup(shared) if alone else PerChannel()


def _ordered(q: QTensor, order: tuple[int, ...]) -> QTensor:
    """Codes and all that lies beside them, moved into that physical order as they are stored."""
    if order == q.physical_order:
        return q
    perm = tuple(q.physical(axis) for axis in order)
    moved = {
        name: lax.transpose(array, perm)
        for name in ("scale", "zero", "outer")
        if (array := getattr(q, name)) is not None
    }
    codes = q.codes
    if isinstance(codes, Packed):
        codes = pack(lax.transpose(unpack(codes), perm), codes.bits)
    else:
        codes = lax.transpose(codes, perm)
    return replace(q, codes=codes, order=trim_order(order), sums=None, **moved)


def _finer(q: QTensor, wanted: QTensor) -> QTensor:
    """With as many scales as wanted, where each of them has one that it repeats."""
    pairs = list(enumerate(zip(q.blocks, wanted.blocks, strict=True)))
    cuts = {axis: want for axis, (have, want) in pairs if have != want}
    if not cuts or any(q.blocks[axis] % want for axis, want in cuts.items()):
        return q
    finer = q.regrouped(cuts)
    packed = isinstance(q.codes, Packed)
    return replace(finer, codes=q.codes) if packed else finer


def _with_zero(q: QTensor, wanted: QTensor) -> QTensor:
    if wanted.zero is None or q.zero is not None:
        return q
    zero = jnp.full(q.scale.shape, q.qtype.middle, wanted.zero.dtype)
    return replace(q, zero=zero)
