"""compressed-tensors, the format of llm-compressor and vLLM.

Each layer has `weight_scale`, and by what it holds beside that:

* `weight_packed` int32: integers of 2 to 8 bits along `in` (`pack-quantized`), each with half of
  the codes added, `weight_shape`, and `weight_zero_point`, packed along `out`;
* `weight_packed` uint8: two fp4 e2m1 codes in a byte, the first one in the lower half: nvfp4 with
  `weight_global_scale`, which scales are divided by, mxfp4 where scales are exponents in a byte;
* `weight` int8 or fp8: codes as they are (`int-quantized`, `float-quantized`, `mxfp8-quantized`).

Integers of 3, 5, 6 and 7 bits were packed in whole words in older versions, and without gaps in
newer ones: the number of words tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from qpass.checkpoint.formats import compressed_config
from qpass.checkpoint.formats.bits import (
    unpack,
    unpack_whole,
    whole_words_for,
    words_for,
)
from qpass.checkpoint.formats.build import (
    Scales,
    check_shape,
    float_dtype,
    from_unsigned,
    quantized,
)
from qpass.checkpoint.formats.compressed_config import Weights
from qpass.checkpoint.formats.hf_fp8 import fp8_type
from qpass.checkpoint.formats.leaves import Decoded, Found, Leaf, layers_with
from qpass.checkpoint.formats.tensors import Tensors
from qpass.errors import CheckpointError
from qpass.numerics import QType, qtypes

SCALE = "weight_scale"
PARTS = (
    *("weight", "weight_packed", "weight_shape", SCALE, "weight_global_scale"),
    *("weight_zero_point", "weight_g_idx"),
)
ACTIVATIONS = (
    *("input_scale", "input_zero_point", "input_global_scale", "input_g_idx"),
    *("output_scale", "output_zero_point", "k_scale", "v_scale", "q_scale"),
)
"""Tensors that are of activations: nothing that a parameter needs."""


@dataclass(frozen=True)
class Layer:
    """The tensors of one layer.

    Attributes:
        tensors: all tensors.
        name: of the layer.
        weights: what the configuration says of its weight.
    """

    tensors: Tensors
    name: str
    weights: Weights

    def __getitem__(self, part: str) -> np.ndarray:
        return self.tensors[f"{self.name}.{part}"]

    def __contains__(self, part: str) -> bool:
        return f"{self.name}.{part}" in self.tensors

    def where(self, part: str) -> str:
        """That tensor and its file."""
        return self.tensors.where(f"{self.name}.{part}")


def leaves(tensors: Tensors, config: Mapping[str, Any], where: str) -> Found:
    """The weights of all layers.

    Args:
        tensors: of the checkpoint.
        config: its `quantization_config`.
        where: the file of that.

    Raises:
        CheckpointError: a layout that is not supported, or parts that are missing.
    """
    groups = compressed_config.groups(config, where)
    found = Found()
    for name in layers_with(tensors, SCALE):
        layer = Layer(tensors, name, compressed_config.of_layer(groups, name, where))
        found.add(name, leaf(layer), tensors, PARTS)
    for part in ACTIVATIONS:
        found.left.extend(f"{layer}.{part}" for layer in layers_with(tensors, part))
    return found


def leaf(layer: Layer) -> Leaf:
    """The weight of a layer `[out, in]`.

    Raises:
        CheckpointError: it has neither `weight` nor `weight_packed`, or none of two axes.
    """
    packed = "weight_packed" in layer
    part = "weight_packed" if packed else "weight"
    stored, where = layer.tensors.at(f"{layer.name}.{part}"), layer.where(part)
    if len(stored.shape) != 2:
        raise CheckpointError(f"Mend {where}: it has {len(stored.shape)} axes, not 2.")
    if not packed:
        return Leaf(stored.shape, where, lambda: _plain(layer))
    if stored.dtype == np.uint8:
        if layer.weights.bits != 4:
            raise CheckpointError(
                f"Give integers, fp8 or fp4; {where} packs floats of {layer.weights.bits} bits."
            )
        shape = (stored.shape[0], 2 * stored.shape[1])
        return Leaf(shape, where, lambda: _fp4(layer, shape))
    shape = _original_shape(layer, stored.shape[0])
    return Leaf(shape, where, lambda: _packed(layer, shape))


def _original_shape(layer: Layer, outputs: int) -> tuple[int, int]:
    shape, where = layer["weight_shape"], layer.where("weight_shape")
    if shape.shape != (2,) or shape[0] != outputs or shape[1] < 0:
        raise CheckpointError(f"Mend {where}: it says {shape.tolist()} of {outputs} rows.")
    return int(shape[0]), int(shape[1])


def _packed(layer: Layer, shape: tuple[int, int]) -> Decoded:
    bits, where = layer.weights.bits, layer.where("weight_packed")
    scale = _scale(layer, shape)
    rows = [(layer["weight_packed"], shape[1])]
    if "weight_zero_point" in layer:
        rows.append((layer["weight_zero_point"].T, scale.scale.shape[0]))
    codes, *zeros = unpack_integers(rows, bits, where)
    zero = zeros[0].T if zeros else None
    if zero is not None:
        check_shape(zero, scale.scale.shape, layer.where("weight_zero_point"))
    found = Scales(scale.scale, scale.rows, scale.columns, zero)
    if "weight_g_idx" in layer and (order := _act_order(layer, shape, scale.columns)) is not None:
        return _dense(codes, found, 1 << (bits - 1), order)
    return Decoded(from_unsigned(codes, bits, found, float_dtype(scale.scale), where))


def unpack_integers(rows: list[tuple[np.ndarray, int]], bits: int, where: str) -> list[np.ndarray]:
    """The codes uint8 `[..., n]` of words int32 `[..., w]`, for each pair of words and n.

    All are packed alike, and so that the numbers of words fit.

    Raises:
        CheckpointError: they fit neither packing, or both though these hold other codes.
    """
    fitting = [packing for packing in PACKINGS if packing.fits(rows, bits)]
    if not fitting:
        given = ", ".join(f"{words.dtype}{list(words.shape)} for {n}" for words, n in rows)
        raise CheckpointError(
            f"Mend {where}: codes of {bits} bits do not fit their words of int32, {given}."
        )
    found = [[packing.unpack(words, bits, n) for words, n in rows] for packing in fitting]
    if any(not np.array_equal(a, b) for a, b in zip(found[0], found[-1], strict=True)):
        raise CheckpointError(
            f"Write {where} with longer rows or in 2, 4 or 8 bits: so short rows of {bits} bits "
            "take as many words in older and in newer files, which hold codes in other places."
        )
    return found[0]


@dataclass(frozen=True)
class Packing:
    """How rows of codes lie in words.

    Attributes:
        words_for: words that n codes of so many bits take.
        unpack: as `qpass.checkpoint.formats.bits.unpack`.
    """

    words_for: Callable[[int, int], int]
    unpack: Callable[[np.ndarray, int, int], np.ndarray]

    def fits(self, rows: list[tuple[np.ndarray, int]], bits: int) -> bool:
        """Whether all rows have the words that they should."""
        return all(
            words.dtype == np.int32
            and words.ndim == 2
            and words.shape[1] == self.words_for(n, bits)
            for words, n in rows
        )


PACKINGS = (Packing(words_for, unpack), Packing(whole_words_for, unpack_whole))
"""Without gaps, and in whole words."""


def _act_order(layer: Layer, shape: tuple[int, int], group: int) -> np.ndarray | None:
    """The group of each input feature; None where they lie in order."""
    index, where = layer["weight_g_idx"], layer.where("weight_g_idx")
    check_shape(index, (shape[1],), where)
    count = -(-shape[1] // group)
    if np.all(index == -1) or np.array_equal(index, np.arange(shape[1]) // group):
        return None
    if not 0 <= index.min() <= index.max() < count:
        raise CheckpointError(f"Mend {where}: it names groups beyond the {count} of the scales.")
    return index


def _dense(codes: np.ndarray, scales: Scales, middle: int, index: np.ndarray) -> Decoded:
    """The values themselves, each product rounded once to the dtype of the scales."""
    zero = np.float32(middle) if scales.zero is None else scales.zero[:, index].astype(np.float32)
    steps = codes.astype(np.float32) - zero
    value = steps * scales.scale[:, index].astype(np.float32)
    return Decoded(
        jnp.asarray(value.astype(float_dtype(scales.scale))),
        "its input features are grouped in another order than they lie in (actorder, weight_g_idx)",
    )


def _plain(layer: Layer) -> Decoded:
    codes, where = layer["weight"], layer.where("weight")
    shape = (codes.shape[0], codes.shape[1])
    if codes.dtype == np.int8:
        return _integers(layer, codes, shape)
    qtype = fp8_type(codes.dtype, where)
    raw = layer[SCALE]
    if raw.dtype == np.uint8:
        return _exponents(layer, codes, shape, qtypes.mxfp8)
    dtype = float_dtype(raw)
    return Decoded(quantized(codes, qtype, _scale(layer, shape), dtype, where))


def _integers(layer: Layer, codes: np.ndarray, shape: tuple[int, int]) -> Decoded:
    scale, where = _scale(layer, shape), layer.where("weight")
    zero = None
    if "weight_zero_point" in layer and (given := layer["weight_zero_point"]).any():
        check_shape(given, layer[SCALE].shape, layer.where("weight_zero_point"))
        zero = given.astype(np.int8).reshape(scale.scale.shape)
    found = Scales(scale.scale, scale.rows, scale.columns, zero)
    dtype = float_dtype(scale.scale)
    return Decoded(quantized(codes, qtypes.int8, found, dtype, where))


def _fp4(layer: Layer, shape: tuple[int, int]) -> Decoded:
    packed, where = layer["weight_packed"], layer.where("weight_packed")
    codes = unpack(packed, 4, shape[1]).view(ml_dtypes.float4_e2m1fn)
    if "weight_global_scale" not in layer:
        return _exponents(layer, codes, shape, qtypes.mxfp4)
    divisor = layer["weight_global_scale"].astype(np.float32).reshape(-1)
    check_shape(divisor, (1,), layer.where("weight_global_scale"))
    if not divisor[0] > 0:
        raise CheckpointError(
            f"Mend {layer.where('weight_global_scale')}: scales are divided by it, and it is "
            f"{divisor[0]}."
        )
    raw = layer[SCALE]
    check_shape(raw, (shape[0], -(-shape[1] // 16)), layer.where(SCALE))
    scales = Scales(raw, 1, 16, outer=float(np.float32(1) / divisor[0]))
    return Decoded(quantized(codes, qtypes.nvfp4, scales, np.dtype(ml_dtypes.bfloat16), where))


def _exponents(layer: Layer, codes: np.ndarray, shape: tuple[int, int], qtype: QType) -> Decoded:
    raw, where = layer[SCALE], layer.where(SCALE)
    check_shape(raw, (shape[0], -(-shape[1] // 32)), where)
    if raw.dtype != np.uint8:
        raise CheckpointError(f"Mend {where}: scales of {qtype} are exponents, not {raw.dtype}.")
    scales = Scales(raw.view(ml_dtypes.float8_e8m0fnu), 1, 32)
    return Decoded(quantized(codes, qtype, scales, np.dtype(ml_dtypes.bfloat16), where))


def _scale(layer: Layer, shape: tuple[int, int]) -> Scales:
    """Scales as `[rows, columns]`, of the sizes that the configuration gives."""
    raw, where = layer[SCALE], layer.where(SCALE)
    rows, columns = layer.weights.block(shape)
    count = (-(-shape[0] // rows), -(-shape[1] // columns))
    flat = raw.reshape(-1, 1) if raw.ndim < 2 else raw
    check_shape(flat, count, where)
    return Scales(flat, rows, columns)
