"""nf4 of bitsandbytes: `weight`, `weight.absmax`, `weight.quant_map` and a state in JSON.

`weight` is uint8 `[n / 2, 1]`: codes of the flattened `[out, in]`, the first of two in the upper
half of a byte. `absmax` is the scale of each block of so many codes; where it was quantized itself
it is uint8, places in `nested_quant_map`, times the `nested_absmax` of its block, plus an offset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from qpass.checkpoint.formats.build import Scales, check_shape, quantized
from qpass.checkpoint.formats.leaves import Decoded, Found, Leaf
from qpass.checkpoint.formats.tensors import Tensors
from qpass.errors import CheckpointError
from qpass.numerics import qtypes

STATE = "weight.quant_state.bitsandbytes__"
PARTS = (
    *("weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax"),
    *("weight.nested_quant_map", f"{STATE}nf4", f"{STATE}fp4"),
)
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def leaves(tensors: Tensors) -> Found:
    """The weights of all layers with a state.

    Raises:
        CheckpointError: a type other than nf4, or parts that are missing.
    """
    found = Found()
    for name in tensors:
        if f".{STATE}" in name:
            layer, kind = name.split(f".{STATE}")
            found.add(layer, leaf(tensors, layer, kind), tensors, PARTS)
        if name.endswith((".SCB", ".weight_format")):
            raise CheckpointError(
                f"Give a checkpoint in nf4; {tensors.where(name)} is of LLM.int8(), whose products "
                "keep columns of outliers in float."
            )
    return found


def leaf(tensors: Tensors, layer: str, kind: str) -> Leaf:
    """The weight of a layer, in its own shape.

    Raises:
        CheckpointError: it is no nf4, or its state is not understood.
    """
    name, where = f"{layer}.{STATE}{kind}", tensors.where(f"{layer}.weight")
    if kind != "nf4":
        raise CheckpointError(f"Give a checkpoint in nf4; {where} is in {kind}.")
    state = _state(tensors[name], tensors.where(name))
    return Leaf(state["shape"], where, lambda: _decode(tensors, layer, state))


def _state(raw: np.ndarray, where: str) -> dict[str, Any]:
    try:
        state = json.loads(bytes(raw.astype(np.uint8)))
        shape = tuple(int(n) for n in state["shape"])
        known = {"shape": shape, "blocksize": int(state["blocksize"])}
        known["dtype"] = np.dtype(_DTYPES[state["dtype"]])
        if "nested_blocksize" in state:
            known["nested_blocksize"] = int(state["nested_blocksize"])
            known["nested_offset"] = float(state["nested_offset"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"Mend {where}: its state is not understood ({type(error).__name__}: {error})."
        ) from error
    sizes = (*shape, known["blocksize"], known.get("nested_blocksize", 1))
    if min(sizes) < 1:
        raise CheckpointError(f"Mend {where}: it has sizes below 1, {sizes}.")
    return known


def _decode(tensors: Tensors, layer: str, state: Mapping[str, Any]) -> Decoded:
    where, shape, block = tensors.where(f"{layer}.weight"), state["shape"], state["blocksize"]
    size = int(np.prod(shape))
    packed = tensors[f"{layer}.weight"].reshape(-1).view(np.uint8)
    check_shape(packed, (-(-size // 2),), where)
    table = tensors[f"{layer}.weight.quant_map"]
    if not np.array_equal(table.astype(np.float32), np.asarray(qtypes.nf4.table, np.float32)):
        raise CheckpointError(f"Mend {where}: its quant_map is not the table of nf4.")
    codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[:size]
    scale = _absmax(tensors, layer, state)
    check_shape(scale, (-(-size // block),), tensors.where(f"{layer}.weight.absmax"))
    if len(shape) != 2 or shape[1] % block:
        return _dense(codes, scale, state)
    scales = Scales(scale.reshape(shape[0], -1), 1, block)
    return Decoded(quantized(codes.reshape(shape), qtypes.nf4, scales, state["dtype"], where))


def _dense(codes: np.ndarray, scale: np.ndarray, state: Mapping[str, Any]) -> Decoded:
    values = np.asarray(qtypes.nf4.table, np.float32)[codes]
    value = values * np.repeat(scale, state["blocksize"])[: len(codes)]
    return Decoded(
        jnp.asarray(value.reshape(state["shape"]).astype(state["dtype"])),
        f"its blocks of {state['blocksize']} run from row to row",
    )


def _absmax(tensors: Tensors, layer: str, state: Mapping[str, Any]) -> np.ndarray:
    """float32 scales of all blocks."""
    raw = tensors[f"{layer}.weight.absmax"].reshape(-1)
    if "nested_blocksize" not in state:
        return raw.astype(np.float32)
    where = tensors.where(f"{layer}.weight.absmax")
    table = tensors[f"{layer}.weight.nested_quant_map"].astype(np.float32)
    outer = tensors[f"{layer}.weight.nested_absmax"].astype(np.float32)
    check_shape(table, (256,), tensors.where(f"{layer}.weight.nested_quant_map"))
    check_shape(outer, (-(-len(raw) // state["nested_blocksize"]),), where)
    spread = np.repeat(outer, state["nested_blocksize"])[: len(raw)]
    return table[raw.astype(np.uint8)] * spread + np.float32(state["nested_offset"])
