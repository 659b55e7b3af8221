"""fp8 weights with a scale for each block, as DeepSeek's checkpoints have them.

`weight` is fp8 `[out, in]`, `weight_scale_inv` float `[ceil(out / rows), ceil(in / columns)]`: what
values are multiplied by, whatever its name says. The sizes of a block come from the configuration:
they do not follow from the shapes where the last block is smaller than the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qpass.checkpoint.formats.build import Scales, check_shape, quantized
from qpass.checkpoint.formats.leaves import Decoded, Found, Leaf, layers_with
from qpass.checkpoint.formats.tensors import Tensors
from qpass.errors import CheckpointError
from qpass.numerics import QTYPES, QType

SCALE = "weight_scale_inv"


def block_size(config: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Rows and columns of a block.

    Raises:
        CheckpointError: the configuration does not say.
    """
    block = config.get("weight_block_size")
    sizes = tuple(block) if isinstance(block, list | tuple) else ()
    if len(sizes) != 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise CheckpointError(
            f"Give a configuration with weight_block_size, as [128, 128]; {where} says {block!r}."
        )
    return sizes


def leaf(tensors: Tensors, layer: str, block: tuple[int, int], dtype: np.dtype) -> Leaf:
    """The weight of a layer `[out, in]`, standing for `dtype`.

    Raises:
        CheckpointError: a part of it is missing, or the weight is no fp8 matrix.
    """
    name = f"{layer}.weight"
    stored, where = tensors.at(name), tensors.where(name)
    tensors.at(f"{layer}.{SCALE}")
    qtype = fp8_type(stored.dtype, where)
    if len(stored.shape) != 2:
        raise CheckpointError(f"Mend {where}: it has blocks and {len(stored.shape)} axes, not 2.")
    shape = (stored.shape[0], stored.shape[1])
    return Leaf(shape, where, lambda: _decode(tensors, layer, block, qtype, dtype))


def leaves(tensors: Tensors, config: Mapping[str, Any], where: str, dtype: np.dtype) -> Found:
    """The weights of all layers; arguments as of `block_size` and `leaf`.

    Raises:
        CheckpointError: see there.
    """
    found, block = Found(), block_size(config, where)
    for layer in layers_with(tensors, SCALE):
        found.add(layer, leaf(tensors, layer, block, dtype), tensors, ("weight", SCALE))
    return found


def fp8_type(dtype: np.dtype, where: str) -> QType:
    """The type whose codes have that dtype.

    Raises:
        CheckpointError: it is no fp8.
    """
    for qtype in QTYPES:
        if qtype.name.startswith("fp8") and qtype.dtype == dtype:
            return qtype
    raise CheckpointError(f"Mend {where}: it has scales beside it but is {dtype}, not fp8.")


def _decode(
    tensors: Tensors, layer: str, block: tuple[int, int], qtype: QType, dtype: np.dtype
) -> Decoded:
    codes, scale = tensors[f"{layer}.weight"], tensors[f"{layer}.{SCALE}"]
    rows, columns = (min(size, n) for size, n in zip(block, codes.shape, strict=True))
    count = (-(-codes.shape[0] // rows), -(-codes.shape[1] // columns))
    check_shape(scale, count, tensors.where(f"{layer}.{SCALE}"))
    scales = Scales(scale, rows, columns)
    return Decoded(quantized(codes, qtype, scales, dtype, tensors.where(f"{layer}.weight")))
