"""QTensor: a quantized array as a pytree leaf-to-be, with the layout operations it survives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import CorruptTensorError
from qpass.numerics import canonical, faults, layout, reshape, slicing
from qpass.numerics.axes import full_order, inverse, pick
from qpass.numerics.canonical import Operand
from qpass.numerics.formulas import decode
from qpass.numerics.packing import Packed
from qpass.numerics.qtypes import QType


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale", "zero", "outer", "sums", "latent"],
    meta_fields=["qtype", "dtype", "groups", "order"],
)
@dataclass(frozen=True, eq=False)
class QTensor:
    """A float array held as codes and scales: `value = (codes - zero) * scale * outer` in float32.

    Invariants: `scale` has the rank and the physical axis order of `codes`. Along each axis it has
    size 1 (all share), n (one for each index) or, where `groups` names the axis, `ceil(n / size)`
    with 1 < size < n. All metadata counts axes from the end, so that it stays right when a leading
    axis of all arrays is indexed, scanned or mapped over together (see `stacked`).

    Attributes:
        codes: array of `qtype.dtype` in physical axis order, or `Packed` in fewer bits.
        scale: array of the dtype of `qtype.scale_format`: float32, of block formats narrower.
        zero: int8 or uint8 zero points of the shape of `scale`; float32 in tensors from files
            where they lie between codes; None where all are `qtype.middle`, which is code 0 of
            signed types.
        outer: float32 factor of all scales, of their rank; None where there is none.
        sums: float32 column sums of `(codes - qtype.middle) * scale * outer`, which zero points of
            the other operand of a product multiply. In the physical order of `codes`: size 1 along
            the axes that are summed over, n along the others. None where no such product asked for
            them, or where a layout operation has cut what they sum.
        latent: the float array in logical order that receives straight-through gradients in
            training; None where the tensor is stored.
        qtype: the numeric type of the codes.
        dtype: the dtype of the float array that this stands for.
        groups: (negative logical axis, group size) of the axes that are cut in groups.
        order: negative logical axes in physical order, for the trailing `len(order)` axes; empty
            where codes lie in logical order.

    Layout operations take logical axes and return a QTensor, or None where the scales cannot
    follow (the caller then dequantizes). They satisfy `op(q).dequantize() == op(q.dequantize())`
    exactly, and `op(q).latent == op(q.latent)`. All but `transpose`, `astype` and `stacked` unpack
    codes and widen scales first (see `plain`).
    """

    codes: Any
    scale: jax.Array
    zero: jax.Array | None
    outer: jax.Array | None
    latent: jax.Array | None
    qtype: QType
    dtype: np.dtype
    groups: tuple[tuple[int, int], ...] = ()
    order: tuple[int, ...] = ()
    sums: jax.Array | None = None

    @property
    def physical_order(self) -> tuple[int, ...]:
        """Logical axes in the order in which codes hold them."""
        return full_order(self.order, self.codes.ndim)

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, that of the float array."""
        return pick(self.codes.shape, inverse(self.physical_order))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.codes.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.codes.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all takes in memory, half a byte for an int4; without latent."""
        beside = (self.scale, self.zero, self.outer, self.sums)
        taken = sum(math.prod(x.shape) * x.dtype.itemsize for x in beside if x is not None)
        if isinstance(self.codes, Packed):
            return self.codes.nbytes + taken
        return -(-self.size * _bits(self.codes.dtype) // 8) + taken

    @property
    def float_nbytes(self) -> int:
        """Bytes that the float array takes."""
        return self.size * self.dtype.itemsize

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many neighbours share a scale along each logical axis."""
        return pick(self.physical_blocks, inverse(self.physical_order))

    @property
    def physical_blocks(self) -> tuple[int, ...]:
        """`blocks` in physical order, as `decode` takes them."""
        groups = {axis + self.ndim: size for axis, size in self.groups}
        sizes = zip(self.physical_order, self.codes.shape, self.scale.shape, strict=True)
        return tuple(groups.get(axis, n if s == 1 else 1) for axis, n, s in sizes)

    def physical(self, axis: int) -> int:
        """The axis of codes and scale that holds a logical axis."""
        return self.physical_order.index(axis % self.ndim)

    def dequantize(self) -> jax.Array:
        """The float array in logical order: `shape`, `dtype`. No gradient flows through it."""
        q = self.plain()
        value = decode(q.codes, q.scale, q.zero, q.physical_blocks, q.qtype, q.dtype)
        return lax.stop_gradient(lax.transpose(value, inverse(self.physical_order)))

    def plain(self) -> QTensor:
        """The same tensor with codes in `qtype.dtype`, float32 scales and no `outer`."""
        return layout.plain(self)

    def transpose(self, perm: Sequence[int]) -> QTensor:
        """Permute axes. Codes stay where they are, only the metadata changes."""
        return layout.transpose(self, tuple(perm))

    def reshape(self, new_sizes: Sequence[int]) -> QTensor | None:
        """Split and merge axes; see `qpass.numerics.reshape` for what scales can follow."""
        return reshape.reshape(self, tuple(new_sizes))

    def squeeze(self, dims: Sequence[int]) -> QTensor:
        """Drop axes of size 1."""
        return layout.squeeze(self, tuple(dims))

    def broadcast_in_dim(self, shape: Sequence[int], dims: Sequence[int]) -> QTensor:
        """Axis i becomes axis `dims[i]` of `shape`, as `jax.lax.broadcast_in_dim`."""
        return layout.broadcast_in_dim(self, tuple(shape), tuple(dims))

    def slice(
        self, start: Sequence[int], limit: Sequence[int], strides: Sequence[int] | None = None
    ) -> QTensor | None:
        """A static slice. None where it cuts through groups at other places than their ends."""
        strides = (1,) * self.ndim if strides is None else tuple(strides)
        return slicing.slice_(self, tuple(start), tuple(limit), strides)

    def dynamic_slice(self, start_indices: Sequence, sizes: Sequence[int]) -> QTensor | None:
        """A slice at traced places; None where groups are cut at a place not known."""
        return slicing.dynamic_slice(self, tuple(start_indices), tuple(sizes))

    def rev(self, dims: Sequence[int]) -> QTensor | None:
        """Reverse axes. None along an axis whose last group is short."""
        return layout.rev(self, tuple(dims))

    def astype(self, dtype) -> QTensor | None:
        """Stand for another float dtype; None where it is not floating.

        Codes and scales stay, so widening keeps what the narrow dtype would have rounded off: it is
        the one operation that agrees with the float one only up to that rounding.
        """
        return layout.astype(self, np.dtype(dtype))

    def in_order(self) -> QTensor:
        """The same tensor with codes moved into logical order, if they are not."""
        return layout.in_order(self)

    def stacked(self, n: int = 1) -> QTensor:
        """The same tensor, ready to be scanned or mapped over its first n logical axes.

        They lie first in codes too and have a scale for each index. Moves or repeats only what
        is not so already.
        """
        return layout.stacked(self, n)

    def regrouped(self, blocks: Mapping[int, int]) -> QTensor:
        """The same tensor where no more than that many neighbours share a scale along those axes.

        Args:
            blocks: by logical axis, numbers that divide the block sizes that `blocks` tells.
        """
        return layout.regrouped(self, blocks)

    def operand_order(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Those logical axes in the order in which codes hold them.

        Passing axes to `canonical` in this order moves no codes where that is possible.
        """
        return tuple(sorted((a % self.ndim for a in axes), key=self.physical))

    def canonical(
        self,
        batch: Sequence[int],
        free: Sequence[int],
        contract: Sequence[int],
        cuts: tuple[int, ...] | None = None,
    ) -> Operand:
        """The tensor as a kernel's operand: each list of logical axes flattened to one, in order.

        See `qpass.numerics.canonical`. K is padded with zero codes where `padded` says so.
        """
        return canonical.canonical(self, tuple(batch), tuple(free), tuple(contract), cuts)

    def cuts(self, contract: Sequence[int]) -> tuple[int, ...]:
        """How many neighbours share a scale along each of those axes; 0 where all of them do."""
        return canonical.cuts_of(self, tuple(contract))

    def padded(
        self, contract: Sequence[int], cuts: tuple[int, ...] | None = None
    ) -> tuple[int, ...]:
        """Sizes that `canonical` pads the contracted axes to, so that groups do not straddle."""
        return canonical.padded(self, tuple(contract), cuts)

    def check(self, path: str = "") -> None:
        """Hold the arrays against the metadata.

        Raises:
            CorruptTensorError: a shape, dtype, group or order that does not fit.
        """
        if fault := faults.fault(self):
            raise CorruptTensorError(
                f"Quantize {path or 'this tensor'} again or restore it: {fault}. It holds {self}."
            )

    def __repr__(self) -> str:
        names = ("codes", "scale", "zero", "outer", "sums")
        parts = {name: getattr(self, name) for name in names}
        shown = ", ".join(f"{k}={faults.aval(x)}" for k, x in parts.items() if x is not None)
        groups = f", groups={self.groups}" if self.groups else ""
        order = f", order={self.order}" if self.order else ""
        return f"QTensor({self.qtype} of {self.dtype}, {shown}{groups}{order})"


def _bits(dtype: np.dtype) -> int:
    return (jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo)(dtype).bits
