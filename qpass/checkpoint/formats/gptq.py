"""GPTQ and AutoRound: `qweight`, `qzeros`, `scales` and `g_idx` of each layer.

`qweight` is int32 `[in * bits / 32, out]`, a stream of codes along `in` for each output;
`qzeros` is int32 `[groups, out * bits / 32]`, a stream along `out`; `scales` is `[groups, out]`.
The value is `scales[g] * (code - zero[g])` where g is the group of the input feature. Input
features of act-order checkpoints are in groups that `g_idx` lists, in any order.

Version 1 (`checkpoint_format: gptq`) stores zero points less one. A zero point of 0 is stored as
-1, and how that was written decides how it reads: GPTQModel subtracts a one from each code of a
whole word of 2, 4 or 8 bit codes at once, so that a -1 borrows from its neighbour, and takes -1 in
3 bits for the greatest code; others take it so in all widths. Version 2 stores them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from qpass.checkpoint.formats.bits import WORD, pack, unpack, words_for
from qpass.checkpoint.formats.build import Scales, check_shape, float_dtype, from_unsigned
from qpass.checkpoint.formats.leaves import Decoded, Found, Leaf, layers_with
from qpass.checkpoint.formats.tensors import Tensors
from qpass.errors import CheckpointError

PARTS = ("qweight", "qzeros", "scales", "g_idx")
"""Tensors of a layer; `g_idx` may be missing."""

BITS = (2, 3, 4, 8)
WORDS, CODES = "words", "codes"
"""How a writer of version 1 subtracted one: from whole words with borrow, or from each code."""

_WRITERS = {"gptqmodel": (2, 3, 4, 8), "auto-round": (2, 4, 8), "auto_round": (2, 4, 8)}
"""Writers that take one off from whole words (of 3 bits: from codes), with the bits known of."""


@dataclass(frozen=True)
class Settings:
    """What the configuration says of all layers.

    Attributes:
        bits: of a code.
        group: input features that share a scale; -1 for all.
        version: 1 or 2.
        less_one: how version 1 took one off, `WORDS` or `CODES`; "" where it is not known.
    """

    bits: int
    group: int
    version: int
    less_one: str = ""


def settings(config: Mapping[str, Any], where: str, zeros: str = "") -> Settings:
    """Settings from `quantization_config` or `quantize_config.json`.

    Args:
        config: the configuration.
        where: its file.
        zeros: `WORDS` or `CODES`, where the caller knows more than the configuration.

    Raises:
        CheckpointError: something is missing or not supported.
    """
    version = _version(config, where)
    bits, group = config.get("bits"), config.get("group_size")
    if bits not in BITS or not isinstance(group, int) or (group < 1 and group != -1):
        raise CheckpointError(
            f"Give a GPTQ checkpoint of 2, 3, 4 or 8 bits and a group size of -1 or from 1 on; "
            f"{where} says {bits!r} bits and {group!r}."
        )
    if zeros not in ("", WORDS, CODES):
        raise CheckpointError(f"Give zeros={WORDS!r} or zeros={CODES!r}; got {zeros!r}.")
    return Settings(bits, group, version, zeros or _less_one(config, bits))


def leaf(tensors: Tensors, layer: str, given: Settings) -> Leaf:
    """The weight of a layer `[out, in]`.

    Raises:
        CheckpointError: a part of it is missing.
    """
    stored = [tensors.at(f"{layer}.{part}") for part in PARTS[:3]]
    where = tensors.where(f"{layer}.qweight")
    if any(len(s.shape) != 2 for s in stored):
        raise CheckpointError(f"Mend {where}: qweight, qzeros and scales of a layer are matrices.")
    words, outputs = stored[0].shape
    inputs = _inputs(tensors, layer, words, given)
    return Leaf((outputs, inputs), where, lambda: _decode(tensors, layer, inputs, given))


def leaves(tensors: Tensors, config: Mapping[str, Any], where: str, zeros: str = "") -> Found:
    """The weights of all layers; arguments as of `settings`.

    Raises:
        CheckpointError: see `settings` and `leaf`.
    """
    found = Found()
    for layer in layers_with(tensors, PARTS[0]):
        given = settings(of_layer(config, layer), where, zeros)
        found.add(layer, leaf(tensors, layer, given), tensors, PARTS)
    return found


def _inputs(tensors: Tensors, layer: str, words: int, given: Settings) -> int:
    """How many input features a layer has, which `g_idx` has to confirm."""
    name, held = f"{layer}.g_idx", words * WORD // given.bits
    listed = tensors.at(name).shape if name in tensors else (held,)
    if listed != (held,):
        raise CheckpointError(
            f"Mend {tensors.where(name)}: it lists {list(listed)} input features, and qweight "
            f"holds {held} of {given.bits} bits."
        )
    return held


def _decode(tensors: Tensors, layer: str, inputs: int, given: Settings) -> Decoded:
    where, scale = tensors.where(f"{layer}.qweight"), tensors[f"{layer}.scales"].T
    outputs = tensors.at(f"{layer}.qweight").shape[1]
    group = inputs if given.group == -1 else min(given.group, inputs)
    count = -(-inputs // group)
    check_shape(scale.T, (count, outputs), tensors.where(f"{layer}.scales"))
    codes = unpack(tensors[f"{layer}.qweight"].T, given.bits, inputs)
    zero = read_zeros(tensors[f"{layer}.qzeros"], outputs, given, tensors.where(f"{layer}.qzeros"))
    check_shape(zero, (count, outputs), tensors.where(f"{layer}.qzeros"))
    index = _groups_of_inputs(tensors, layer, inputs, count)
    if index is not None and not np.array_equal(index, np.arange(inputs) // group):
        return _dense(codes, scale, zero.T, index)
    scales = Scales(np.ascontiguousarray(scale), 1, group, zero.T)
    return Decoded(from_unsigned(codes, given.bits, scales, float_dtype(scale), where))


def _dense(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, index: np.ndarray) -> Decoded:
    """The values themselves, each product rounded once to the dtype of the scales."""
    steps = codes.astype(np.float32) - zero.astype(np.float32)[:, index]
    value = (steps * scale.astype(np.float32)[:, index]).astype(float_dtype(scale))
    return Decoded(
        jnp.asarray(value),
        "its input features are grouped in another order than they lie in (act-order, g_idx)",
    )


def _groups_of_inputs(tensors: Tensors, layer: str, inputs: int, count: int) -> np.ndarray | None:
    name = f"{layer}.g_idx"
    if name not in tensors:
        return None
    index = tensors[name]
    check_shape(index, (inputs,), tensors.where(name))
    if inputs and not (index.dtype.kind in "iu" and 0 <= index.min() <= index.max() < count):
        raise CheckpointError(
            f"Mend {tensors.where(name)}: it names groups beyond the {count} that scales are for."
        )
    return index


def read_zeros(words: np.ndarray, outputs: int, given: Settings, where: str) -> np.ndarray:
    """The zero points, uint8 `[groups, outputs]`, of either version.

    Raises:
        CheckpointError: of version 1, where the two ways to read them differ and the writer is not
            known.
    """
    wanted = words_for(outputs, given.bits)
    check_shape(words, (*words.shape[:-1], wanted), where)
    stored = unpack(words, given.bits, outputs)
    if given.version == 2:
        return stored
    by_code = (stored + np.uint8(1)) & np.uint8((1 << given.bits) - 1)
    if given.bits == 3:
        unsure, by_word = by_code == 0, by_code
    else:
        by_word = unpack(_plus_ones(words, given.bits), given.bits, outputs)
        unsure = by_word != by_code
    if unsure.any() and not given.less_one:
        raise CheckpointError(_ask(where, int(unsure.sum()), unsure.size))
    return by_word if given.less_one == WORDS else by_code


def _ask(where: str, unsure: int, size: int) -> str:
    return (
        f"Say who wrote {where}: {unsure} of its {size} zero points depend on it. It holds zero "
        f"points less one, and a zero point of 0 as -1. Read it with zeros={WORDS!r} if it is "
        f"GPTQModel's, which subtracts from whole words; with zeros={CODES!r} if every code was "
        "wrapped by itself."
    )


def _plus_ones(words: np.ndarray, bits: int) -> np.ndarray:
    """A one added to each code of whole words, with carry from code to code."""
    ones = np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
    return np.ascontiguousarray(words).view(np.uint32) + ones


def of_layer(config: Mapping[str, Any], layer: str) -> Mapping[str, Any]:
    """The configuration with what it says of that layer alone: `dynamic`, or `extra_config`."""
    for pattern, own in (config.get("dynamic") or {}).items():
        if not pattern.startswith("-:") and re.match(pattern.removeprefix("+:"), layer):
            return {**config, **own}
    for pattern, own in (config.get("extra_config") or {}).items():
        if pattern == layer or re.fullmatch(pattern, layer):
            return {**config, **own}
    return config


_VERSIONS = {"gptq": 1, "gptq_v2": 2} | {
    "auto_round:auto_gptq": 1,
    "auto_round:gptqmodel": 2,
    "auto_round": 2,
}


def _version(config: Mapping[str, Any], where: str) -> int:
    keys = ("checkpoint_format", "packing_format", "format")
    name = next((config[key] for key in keys if config.get(key)), "gptq")
    if name not in _VERSIONS:
        raise CheckpointError(
            f"Give a GPTQ checkpoint of the format {' or '.join(_VERSIONS)}; {where} says {name!r}."
        )
    return _VERSIONS[name]


def _less_one(config: Mapping[str, Any], bits: int) -> str:
    meta = config.get("meta") or {}
    names = meta.get("quantizer") or config.get("quant_method") or ""
    first = names[0] if isinstance(names, list) and names else names
    known = _WRITERS.get(str(first).split(":")[0].lower(), ())
    return WORDS if bits in known else ""


def pack_inputs(codes: np.ndarray, bits: int) -> np.ndarray:
    """`qweight` of codes `[out, in]`."""
    return np.ascontiguousarray(pack(codes, bits).T)


def pack_outputs(zero: np.ndarray, bits: int) -> np.ndarray:
    """`qzeros` of version 2, of zero points `[groups, out]`."""
    return pack(zero, bits)
