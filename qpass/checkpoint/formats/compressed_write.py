"""compressed-tensors out of rows of codes: the tensors of a layer, and the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qpass.checkpoint.formats.bits import pack
from qpass.checkpoint.formats.rows import Rows
from qpass.errors import CheckpointError

_FP4 = {"nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized"}


def tensors(weight: Rows, scale: np.ndarray, with_activations: bool) -> dict[str, np.ndarray]:
    """The tensors of a layer.

    Args:
        weight: its weight.
        scale: its scales, in the dtype that they are written in.
        with_activations: whether activations are quantized as well.

    Raises:
        CheckpointError: a type that the format does not have.
    """
    form = format_of(weight, with_activations)
    if form in _FP4.values():
        return _fp4(weight)
    if form != "pack-quantized":
        zero = {} if weight.zero is None else {"weight_zero_point": weight.zero}
        return {"weight": weight.codes, "weight_scale": scale} | zero
    bits, half = weight.bits, int(-weight.qtype.qmin)
    parts = {
        "weight_packed": pack(_unsigned(weight.codes, half), bits),
        "weight_scale": scale,
        "weight_shape": np.array(weight.codes.shape, np.int64),
    }
    if weight.zero is not None:
        columns = np.ascontiguousarray(_unsigned(weight.zero, half).T)
        parts["weight_zero_point"] = pack(columns, bits).T
    return parts


def format_of(weight: Rows, with_activations: bool) -> str:
    """What the format calls the way in which a layer is stored.

    Raises:
        CheckpointError: it has none for this type, or not with these blocks.
    """
    name, strategy = weight.qtype.name, weight.strategy
    if name in _FP4 and strategy in ("group", "channel"):
        return _FP4[name]
    if name in ("fp8_e4m3", "fp8_e5m2") and strategy != "group":
        return "float-quantized"
    if weight.qtype.kind == "int" and weight.qtype.qmin < 0 and weight.block[0] == 1:
        return "int-quantized" if with_activations and name == "int8" else "pack-quantized"
    raise CheckpointError(
        f"Write {weight.name} as integers with a sign and a scale for each output, fp8 without "
        f"groups, mxfp4 or nvfp4; it is {weight.qtype} with scales for blocks of {weight.block}."
    )


def config(
    layers: Mapping[str, Rows], activations: Mapping[str, Any] | None, ignored: list[str]
) -> dict[str, Any]:
    """The `quantization_config`: a group for each kind of weight, which names its layers."""
    if not layers:
        raise CheckpointError("Give quantized weights to write; there are none.")
    groups: dict[str, dict[str, Any]] = {}
    for name, weight in layers.items():
        form, own = format_of(weight, activations is not None), _weights(weight)
        group = groups.setdefault(f"{form} {own}", {"targets": [], "weights": own, "format": form})
        group["targets"].append(name)
    for group in groups.values():
        group["input_activations"] = activations
    forms = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": forms.pop() if len(forms) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups.values())},
        "ignore": ignored,
    }


def _weights(weight: Rows) -> dict[str, Any]:
    name, strategy = weight.qtype.name, weight.strategy
    kind = "int" if weight.qtype.kind == "int" else "float"
    own: dict[str, Any] = {"num_bits": weight.bits, "type": kind, "dynamic": False}
    own |= {"symmetric": weight.zero is None, "strategy": strategy}
    if name in _FP4:
        own |= {"strategy": "tensor_group" if name == "nvfp4" else "group"}
        own |= {"group_size": weight.qtype.block}
        own |= {"scale_dtype": "torch.float8_e4m3fn" if name == "nvfp4" else "torch.uint8"}
    elif strategy == "group":
        own["group_size"] = weight.block[1]
    elif strategy == "block":
        own["block_structure"] = list(weight.block)
    return own


def _fp4(weight: Rows) -> dict[str, np.ndarray]:
    bits = np.ascontiguousarray(weight.codes).view(np.uint8) & np.uint8(15)
    if bits.shape[1] % weight.qtype.block:
        raise CheckpointError(
            f"Write {weight.name} in another format: {bits.shape[1]} inputs are no whole blocks of "
            f"{weight.qtype.block}."
        )
    parts = {"weight_packed": bits[:, ::2] | bits[:, 1::2] << 4}
    if weight.outer is None:
        return parts | {"weight_scale": np.ascontiguousarray(weight.scale).view(np.uint8)}
    divisor = np.array([np.float32(1) / np.float32(weight.outer)], np.float32)
    return parts | {"weight_scale": weight.scale, "weight_global_scale": divisor}


def _unsigned(codes: np.ndarray, half: int) -> np.ndarray:
    return (codes.astype(np.int16) + half).astype(np.uint8)
