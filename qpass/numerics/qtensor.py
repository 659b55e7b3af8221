"""QTensor: a quantized array as a pytree leaf-to-be, with the layout operations it survives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax import lax

from qpass.errors import CorruptTensorError
from qpass.numerics import canonical, layout, reshape, slicing
from qpass.numerics.axes import count_blocks, full_order, inverse, pick
from qpass.numerics.formulas import decode
from qpass.numerics.qtypes import QType


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "scale", "latent"],
    meta_fields=["qtype", "dtype", "groups", "order"],
)
@dataclass(frozen=True, eq=False)
class QTensor:
    """A float array held as codes and scales: `value = f32(codes) * scale`.

    Invariants: `scale` has the rank and the physical axis order of `codes`. Along each axis it has
    size 1 (all share), n (one for each index) or, where `groups` names the axis, `ceil(n / size)`
    with 1 < size < n. All metadata counts axes from the end, so that it stays right when a leading
    axis of codes, scale and latent is indexed, scanned or mapped over together (see `stacked`).

    Attributes:
        codes: array of `qtype.dtype`, in physical axis order.
        scale: float32 array.
        latent: the float array in logical order that receives straight-through gradients in
            training; None where the tensor is stored.
        qtype: the numeric type of the codes.
        dtype: the dtype of the float array that this stands for.
        groups: (negative logical axis, group size) of the axes that are cut in groups.
        order: negative logical axes in physical order, for the trailing `len(order)` axes; empty
            where codes lie in logical order.

    Layout operations take logical axes and return a QTensor, or None where the scales cannot
    follow (the caller then dequantizes). They satisfy `op(q).dequantize() == op(q.dequantize())`
    exactly, and `op(q).latent == op(q.latent)`.
    """

    codes: jax.Array
    scale: jax.Array
    latent: jax.Array | None
    qtype: QType
    dtype: np.dtype
    groups: tuple[tuple[int, int], ...] = ()
    order: tuple[int, ...] = ()

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
        """Bytes that codes and scales take in memory: half a byte for an int4; without latent."""
        return -(-self.size * self.qtype.bits // 8) + 4 * math.prod(self.scale.shape)

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
        value = decode(self.codes, self.scale, self.physical_blocks, self.dtype)
        return lax.stop_gradient(lax.transpose(value, inverse(self.physical_order)))

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

    def operand_order(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Those logical axes in the order in which codes hold them.

        Passing axes to `canonical` in this order moves no codes where that is possible.
        """
        return tuple(sorted((a % self.ndim for a in axes), key=self.physical))

    def canonical(
        self, batch: Sequence[int], free: Sequence[int], contract: Sequence[int]
    ) -> tuple[jax.Array, jax.Array, int]:
        """The tensor as a kernel's operand: each list of logical axes flattened to one, in order.

        Returns:
            codes `[B, N, K]`, scale `[B, N, G]` and the number of elements of K that share a scale.
            K is padded with zero codes where `padded` says so.
        """
        return canonical.canonical(self, tuple(batch), tuple(free), tuple(contract))

    def padded(self, contract: Sequence[int]) -> tuple[int, ...]:
        """Sizes that `canonical` pads the contracted axes to, so that groups do not straddle."""
        return canonical.padded(self, tuple(contract))

    def check(self, path: str = "") -> None:
        """Hold the arrays against the metadata.

        Raises:
            CorruptTensorError: a shape, dtype, group or order that does not fit.
        """
        if fault := _fault(self):
            raise CorruptTensorError(
                f"Quantize {path or 'this tensor'} again or restore it: {fault}. It holds {self}."
            )

    def __repr__(self) -> str:
        codes, scale = _aval(self.codes), _aval(self.scale)
        groups = f", groups={self.groups}" if self.groups else ""
        order = f", order={self.order}" if self.order else ""
        return f"QTensor({self.qtype} of {self.dtype}, codes={codes}, scale={scale}{groups}{order})"


def _aval(x) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else repr(x)


def _fault(q: QTensor) -> str:
    """What is wrong with a tensor, in words; empty where nothing is."""
    if not all(hasattr(a, "shape") and hasattr(a, "dtype") for a in (q.codes, q.scale)):
        return "codes and scale have to be arrays"
    return _dtype_fault(q) or _rank_fault(q) or _scale_fault(q) or _latent_fault(q)


def _dtype_fault(q: QTensor) -> str:
    if q.codes.dtype != q.qtype.dtype:
        return f"{q.qtype} has codes of dtype {q.qtype.dtype}, not {q.codes.dtype}"
    return "" if q.scale.dtype == np.float32 else f"scales are float32, not {q.scale.dtype}"


def _rank_fault(q: QTensor) -> str:
    if len(q.codes.shape) != len(q.scale.shape):
        return f"codes have {len(q.codes.shape)} axes and scale has {len(q.scale.shape)}"
    if len(q.order) > q.ndim or sorted(q.order) != list(range(-len(q.order), 0)):
        return f"order {q.order} is no permutation of trailing axes"
    bad = [axis for axis, _ in q.groups if not -q.ndim <= axis < 0]
    return f"groups name axis {bad[0]} of {q.ndim}" if bad else ""


def _scale_fault(q: QTensor) -> str:
    groups = {axis + q.ndim: size for axis, size in q.groups}
    for place, axis in enumerate(q.physical_order):
        n, got = q.codes.shape[place], q.scale.shape[place]
        if fault := _count_fault(n, got, groups.get(axis)):
            return f"axis {axis} of size {n} {fault}"
    return ""


def _count_fault(n: int, got: int, group: int | None) -> str:
    if group is not None and not 1 < group < n:
        return f"is cut in groups of {group}"
    wanted = (1, n) if group is None else (count_blocks(n, group),)
    return "" if got in wanted else f"has {got} scales, not {' or '.join(map(str, wanted))}"


def _latent_fault(q: QTensor) -> str:
    if q.latent is None or (q.latent.shape, q.latent.dtype) == (q.shape, q.dtype):
        return ""
    return f"latent is {_aval(q.latent)}, not {q.dtype}{list(q.shape)}"
