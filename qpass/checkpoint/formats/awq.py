"""AWQ as AutoAWQ's `gemm` layout has it: `qweight`, `qzeros` and `scales` of each layer, 4 bits.

`qweight` is int32 `[in, out / 8]`: eight neighbouring outputs in a word, which lie in it in the
order 0, 2, 4, 6, 1, 3, 5, 7, lowest bits first. `qzeros` is `[groups, out / 8]`, likewise; `scales`
is `[groups, out]`. The value is `scales[g] * (code - zero[g])` with g the group of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qpass.checkpoint.formats.bits import unpack
from qpass.checkpoint.formats.build import Scales, check_shape, float_dtype, from_unsigned
from qpass.checkpoint.formats.leaves import Decoded, Found, Leaf, layers_with
from qpass.checkpoint.formats.tensors import Tensors
from qpass.errors import CheckpointError

PARTS = ("qweight", "qzeros", "scales")

_BITS, _HELD = 4, 8
_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
"""Which of eight outputs the fields of a word hold."""


def group_size(config: Mapping[str, Any], where: str) -> int:
    """Input features that share a scale, -1 for all; the rest of the configuration is checked.

    Raises:
        CheckpointError: a layout or width that is not supported.
    """
    bits = config.get("bits", config.get("w_bit"))
    group = config.get("group_size", config.get("q_group_size"))
    layout = str(config.get("version", "gemm")).lower()
    if (
        bits != _BITS
        or layout != "gemm"
        or not isinstance(group, int)
        or not (group > 0 or group == -1)
    ):
        raise CheckpointError(
            "Give an AWQ checkpoint of 4 bits in the layout 'gemm' with a group size of -1 or more "
            f"than 0; {where} says {bits!r} bits, {layout!r} and {group!r}."
        )
    return group


def leaf(tensors: Tensors, layer: str, group: int) -> Leaf:
    """The weight of a layer `[out, in]`.

    Raises:
        CheckpointError: a part of it is missing.
    """
    stored = [tensors.at(f"{layer}.{part}") for part in PARTS]
    where = tensors.where(f"{layer}.qweight")
    if any(len(s.shape) != 2 for s in stored):
        raise CheckpointError(f"Mend {where}: qweight, qzeros and scales of a layer are matrices.")
    inputs, words = stored[0].shape
    shape = (words * _HELD, inputs)
    return Leaf(shape, where, lambda: _decode(tensors, layer, shape, group))


def leaves(tensors: Tensors, config: Mapping[str, Any], where: str) -> Found:
    """The weights of all layers; arguments as of `group_size`.

    Raises:
        CheckpointError: see `group_size` and `leaf`.
    """
    found, group = Found(), group_size(config, where)
    for layer in layers_with(tensors, PARTS[0]):
        found.add(layer, leaf(tensors, layer, group), tensors, PARTS)
    return found


def _decode(tensors: Tensors, layer: str, shape: tuple[int, int], group: int) -> Decoded:
    (outputs, inputs), where = shape, tensors.where(f"{layer}.qweight")
    group = inputs if group == -1 else min(group, inputs)
    words, scale = tensors[f"{layer}.qzeros"], tensors[f"{layer}.scales"]
    count = -(-inputs // group)
    check_shape(words, (count, outputs // _HELD), tensors.where(f"{layer}.qzeros"))
    check_shape(scale, (count, outputs), tensors.where(f"{layer}.scales"))
    codes = np.ascontiguousarray(read(tensors[f"{layer}.qweight"]).T)
    scales = Scales(np.ascontiguousarray(scale.T), 1, group, read(words).T)
    return Decoded(from_unsigned(codes, _BITS, scales, float_dtype(scale), where))


def read(words: np.ndarray) -> np.ndarray:
    """The codes uint8 `[n, 8 * w]` of words `[n, w]`, in the order of outputs."""
    fields = unpack(words, _BITS, words.shape[-1] * _HELD).reshape(*words.shape, _HELD)
    codes = np.empty_like(fields)
    codes[..., _ORDER] = fields
    return codes.reshape(*words.shape[:-1], -1)
