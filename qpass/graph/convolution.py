"""Convolutions in words: ``NHWC,HWIO->NHWC 3x3, strides 2x2, padding 0:1x0:1``."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SPATIAL = "DHW"
PLAIN = {"1", "0:0"}


def convolution_text(params: Mapping[str, Any], avals: Sequence[Any]) -> str:
    """The axes of both operands and of the result, and what is not as by itself.

    Args:
        params: of the equation ``conv_general_dilated``.
        avals: types of its operands.
    """
    numbers = params["dimension_numbers"]
    sides = zip(
        (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec), ("NC", "OI", "NC"), strict=True
    )
    lhs, rhs, out = (_letters(spec, names) for spec, names in sides)
    sizes = {
        "": [avals[1].shape[d] for d in numbers.rhs_spec[2:]],
        "strides ": params["window_strides"],
        "padding ": [f"{low}:{high}" for low, high in params["padding"]],
        "input dilated ": params["lhs_dilation"],
        "kernel dilated ": params["rhs_dilation"],
        "groups ": [params["feature_group_count"]],
        "groups of examples ": [params["batch_group_count"]],
    }
    said = [f"{name}{_by(n)}" for name, n in sizes.items() if not name or not _is_plain(n)]
    return f"{lhs},{rhs}->{out} {', '.join(said)}"


def _letters(spec: Sequence[int], names: str) -> str:
    """``NHWC``: a letter for each axis; spatial ones beyond three have digits."""
    n = len(spec) - 2
    spatial = SPATIAL[-n:] if 0 < n <= len(SPATIAL) else "".join(map(str, range(n)))
    letters = dict(zip(spec, (*names, *spatial), strict=True))
    return "".join(letters[d] for d in range(len(spec)))


def _by(sizes: Iterable[Any]) -> str:
    return "x".join(map(str, sizes))


def _is_plain(sizes: Iterable[Any]) -> bool:
    return set(map(str, sizes)) <= PLAIN
