"""What is wrong with a quantized tensor whose arrays and metadata contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qpass.numerics.axes import count_blocks
from qpass.numerics.packing import Packed, packed_length

if TYPE_CHECKING:
    from qpass.numerics.qtensor import QTensor


def aval(x: Any) -> str:
    """Dtype and shape in words: "int8[4, 8]"; what is no array as Python prints it."""
    if isinstance(x, Packed):
        return f"{x.dtype}{list(x.shape)} in {x.bits} bits"
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else repr(x)


def fault(q: QTensor) -> str:
    """What is wrong with a tensor, in words; empty where nothing is."""
    if isinstance(q.codes, Packed) and (found := _packed_fault(q.codes, q.qtype.packed)):
        return found
    if not all(hasattr(a, "shape") and hasattr(a, "dtype") for a in (q.codes, q.scale)):
        return "codes and scale have to be arrays"
    return (
        _dtype_fault(q) or _rank_fault(q) or _scale_fault(q) or _beside_fault(q) or _latent_fault(q)
    )


def _packed_fault(codes: Packed, bits: int) -> str:
    words = codes.words
    if not hasattr(words, "shape") or words.dtype != np.uint8 or not words.shape:
        return f"packed codes are bytes, not {aval(words)}"
    if codes.bits != bits:
        return f"codes are packed in {codes.bits} bits, not {bits}"
    wanted = packed_length(codes.n, codes.bits)
    got = words.shape[-1]
    return "" if got == wanted else f"{codes.n} codes take {wanted} bytes, not {got}"


def _dtype_fault(q: QTensor) -> str:
    if q.codes.dtype != q.qtype.dtype:
        return f"{q.qtype} has codes of dtype {q.qtype.dtype}, not {q.codes.dtype}"
    kept = (
        q.qtype.scale_format.dtype,
        np.dtype(np.float32),
    )  # float32 once a layout step widened it
    return "" if q.scale.dtype in kept else f"scales are {kept[0]}, not {q.scale.dtype}"


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
        if found := _count_fault(n, got, groups.get(axis)):
            return f"axis {axis} of size {n} {found}"
    return ""


def _count_fault(n: int, got: int, group: int | None) -> str:
    if group is not None and not 1 < group < n:
        return f"is cut in groups of {group}"
    wanted = (1, n) if group is None else (count_blocks(n, group),)
    return "" if got in wanted else f"has {got} scales, not {' or '.join(map(str, wanted))}"


def _beside_fault(q: QTensor) -> str:
    """Of zero points and sums, which lie beside the scales, and of the factor of all scales."""
    if q.zero is not None and not _is_zero_for(q.zero, q.scale.shape):
        return (
            f"zero points are a byte or a float32 for each scale {list(q.scale.shape)}, "
            f"not {aval(q.zero)}"
        )
    if q.outer is not None and not _is_f32_over(q.outer, q.scale.shape):
        return f"outer is {aval(q.outer)} beside scales {list(q.scale.shape)}"
    if q.sums is not None and not _is_f32_over(q.sums, q.codes.shape):
        return f"sums are {aval(q.sums)} beside codes {list(q.codes.shape)}"
    return ""


def _is_zero_for(zero: Any, shape: tuple[int, ...]) -> bool:
    return zero.shape == shape and (zero.dtype.itemsize == 1 or zero.dtype == np.float32)


def _is_f32_over(x: Any, shape: tuple[int, ...]) -> bool:
    """Whether x is float32 of that shape, or of size 1 along some of its axes."""
    same_rank = len(x.shape) == len(shape) and x.dtype == np.float32
    return same_rank and all(n in (1, m) for n, m in zip(x.shape, shape, strict=True))


def _latent_fault(q: QTensor) -> str:
    if q.latent is None or (q.latent.shape, q.latent.dtype) == (q.shape, q.dtype):
        return ""
    return f"latent is {aval(q.latent)}, not {q.dtype}{list(q.shape)}"
