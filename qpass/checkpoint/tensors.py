"""QTensors as named arrays and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qpass.checkpoint.manifest import as_dtype
from qpass.numerics import QTensor
from qpass.numerics.export import plain_type, read_type
from qpass.numerics.packing import Packed

ARRAYS = ("codes", "scale", "zero", "outer", "sums")
"""Fields of a QTensor that are stored; a latent array belongs to training."""


def parts_of(leaf: Any) -> dict[str, Any]:
    """The arrays of a leaf by name; an array is one called ""."""
    if not isinstance(leaf, QTensor):
        return {"": leaf}
    arrays = {name: getattr(leaf, name) for name in ARRAYS}
    codes = leaf.codes.words if isinstance(leaf.codes, Packed) else leaf.codes
    return {name: x for name, x in (arrays | {"codes": codes}).items() if x is not None}


def plain(leaf: Any) -> dict[str, Any] | None:
    """What a QTensor is beside its arrays, as JSON has it; None of an array."""
    if not isinstance(leaf, QTensor):
        return None
    codes = leaf.codes
    packed = [codes.n, codes.bits, codes.dtype.name] if isinstance(codes, Packed) else None
    return {
        "qtype": plain_type(leaf.qtype),
        "dtype": leaf.dtype.name,
        "groups": [list(group) for group in leaf.groups],
        "order": list(leaf.order),
        "packed": packed,
    }


def assembled(parts: Mapping[str, Any], about: Mapping[str, Any] | None) -> Any:
    """The leaf of those arrays; the counterpart of `parts_of` and `plain`.

    Raises:
        ValueError, TypeError, KeyError: the arrays or values are not those of a leaf.
        CorruptTensorError: they contradict each other.
    """
    if about is None:
        (array,) = (parts[""],)
        return array
    arrays: dict[str, Any] = {name: parts.get(name) for name in ARRAYS}
    if about["packed"] is not None:
        n, bits, dtype = about["packed"]
        arrays["codes"] = Packed(parts["codes"], _count(n), _count(bits), as_dtype(dtype))
    q = QTensor(
        **arrays,
        latent=None,
        qtype=read_type(dict(about["qtype"])),
        dtype=as_dtype(about["dtype"]),
        groups=tuple((_whole(axis), _count(size)) for axis, size in about["groups"]),
        order=tuple(map(_whole, about["order"])),
    )
    q.check()
    return q


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} for a whole number")
    return value


def _count(value: Any) -> int:
    if _whole(value) < 0:
        raise ValueError(f"{value!r} for a count")
    return value
