"""A quantized tensor as the operand `[batch, free, contracted]` of a kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from qpass.numerics import layout
from qpass.numerics.axes import pick
from qpass.numerics.kernel_codes import kernel_codes

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor


class Operand(NamedTuple):
    """An operand `[B, N, K]` of a kernel: `(codes - zero) * scale` is its value.

    Attributes:
        codes: `[B, N, K]` in a dtype that kernels know (see `qpass.numerics.kernel_codes`).
        scale: float32 `[B, N, G]`; None for floats that have none.
        zero: float32 zero points `[B, N, G]`; None where they are zero.
        group: how many neighbours along K share a scale.
        sums: float32 column sums of `codes * scale`, `[B, N, 1]`; None where they are not known.
    """

    codes: jax.Array
    scale: Any
    zero: jax.Array | None
    group: int
    sums: jax.Array | None = None


def canonical(
    q: QTensor,
    batch: tuple[int, ...],
    free: tuple[int, ...],
    contract: tuple[int, ...],
    cuts: tuple[int, ...] | None = None,
) -> Operand:
    """A tensor as an operand: each list of logical axes is flattened to one, in the order given.

    Nothing moves when codes lie in that order already. Where groups would straddle, the contracted
    axis that is cut is padded with zero codes (see `padded`). Scales are repeated along axes that
    share one.

    Args:
        q: the tensor.
        batch: logical axes of B.
        free: logical axes of N.
        contract: logical axes of K.
        cuts: how many neighbours are to share a scale along each contracted axis, 0 where all do:
            what `common_cuts` gives for both operands, so that they are cut alike. None: as q is.
    """
    q = layout.plain(q)
    batch, free, contract = (tuple(a % q.ndim for a in axes) for axes in (batch, free, contract))
    cuts = cuts_of(q, contract) if cuts is None else cuts
    perm = tuple(q.physical(axis) for axis in (*batch, *free, *contract))
    wanted = dict.fromkeys((*batch, *free), 1) | _wanted(q, contract, cuts)

    def flat_scale(scale: jax.Array) -> jax.Array:
        own = layout.finer(q, scale, wanted)
        return _flatten(lax.transpose(own, perm), len(batch), len(free))

    codes, unit, shift = kernel_codes(q.codes, q.qtype)
    scale = flat_scale(q.scale)
    zero = None if q.zero is None else flat_scale(q.zero).astype(jnp.float32) - shift
    sizes = (*pick(q.shape, batch), *pick(q.shape, free), *padded(q, contract, cuts))
    codes = _flatten(_pad(lax.transpose(codes, perm), sizes), len(batch), len(free))
    group = _group(q, contract, cuts) if scale.shape[2] > 1 else max(codes.shape[2], 1)
    sums = _column_sums(q, batch, free, contract)
    return Operand(codes, scale if unit == 1 else scale * unit, zero, group, sums)


def padded(
    q: QTensor, contract: tuple[int, ...], cuts: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Sizes of the contracted axes in `canonical`: no group straddles two scales.

    Along the axis that is cut there are whole groups, unless it is the first that is not of size 1:
    then its last group ends K, and may be short. The other operand has to be padded with zeros
    alike.
    """
    contract = tuple(a % q.ndim for a in contract)
    cuts = cuts_of(q, contract) if cuts is None else cuts
    sizes = list(pick(q.shape, contract))
    last = _last(cuts)
    if last >= 0 and math.prod(sizes[:last]) != 1:
        sizes[last] = -(-sizes[last] // cuts[last]) * cuts[last]
    return tuple(sizes)


def cuts_of(q: QTensor, contract: tuple[int, ...]) -> tuple[int, ...]:
    """How many neighbours share a scale along each of those axes; 0 where all of them do."""
    counts = (q.scale.shape[q.physical(axis)] for axis in contract)
    return tuple(
        0 if count == 1 else q.blocks[axis] for axis, count in zip(contract, counts, strict=True)
    )


def common_cuts(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """The longest cuts that have a place wherever one of the two has one."""
    return tuple(math.gcd(a, b) for a, b in zip(one, other, strict=True))


def _last(cuts: tuple[int, ...]) -> int:
    """The place of the last axis with more than one scale, or -1.

    All axes after it share, so that they lie inside one group of the flattened axis; those before
    it get a scale for each index.
    """
    return max((place for place, cut in enumerate(cuts) if cut), default=-1)


def _wanted(q: QTensor, contract: tuple[int, ...], cuts: tuple[int, ...]) -> dict[int, int]:
    """How many neighbours are to share a scale, by axis; nothing where one scale serves them all.

    A tensor without any scales along the contracted axes keeps it so, however the other is cut.
    """
    last = _last(cuts)
    if last < 0 or not any(cuts_of(q, contract)):
        return {}
    return dict.fromkeys(contract[:last], 1) | {contract[last]: cuts[last]}


def _group(q: QTensor, contract: tuple[int, ...], cuts: tuple[int, ...]) -> int:
    """How many neighbours share a scale along the flattened axis."""
    last = _last(cuts)
    return cuts[last] * math.prod(pick(q.shape, contract[last + 1 :]))


def _column_sums(
    q: QTensor, batch: tuple[int, ...], free: tuple[int, ...], contract: tuple[int, ...]
) -> jax.Array | None:
    """The sums as `[B, N, 1]`; None where they are not over all of K and nothing else."""
    if q.sums is None:
        return None
    sums = lax.transpose(q.sums, tuple(map(q.physical, (*batch, *free, *contract))))
    wanted = (*pick(q.shape, (*batch, *free)), *[1] * len(contract))
    return _flatten(sums, len(batch), len(free)) if sums.shape == wanted else None


def _pad(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    if x.shape == sizes:
        return x
    tail = [(0, size - n, 0) for size, n in zip(sizes, x.shape, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), tail)


def _flatten(x: jax.Array, batch: int, free: int) -> jax.Array:
    cuts = (x.shape[:batch], x.shape[batch : batch + free], x.shape[batch + free :])
    return lax.reshape(x, tuple(math.prod(sizes) for sizes in cuts))
