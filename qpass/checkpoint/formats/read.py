"""Open a checkpoint of another library: which format it is, and its parameters by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qpass.checkpoint.formats import awq, bitsandbytes, compressed_tensors, gguf, gptq, hf_fp8
from qpass.checkpoint.formats.leaves import Found, Imported, floats
from qpass.checkpoint.formats.tensors import Tensors, open_folder
from qpass.errors import CheckpointError
from qpass.suggest import alternatives

CONFIGS = ("config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
"""Files of a folder that may say how it is quantized, the first one first."""


@dataclass(frozen=True)
class Asked:
    """How a checkpoint is to be read.

    Attributes:
        config: what says how it is quantized.
        where: the file of that.
        dtype: that weights stand for whose scales do not tell.
        zeros: how zero points of GPTQ less one were made; see `qpass.checkpoint.formats.gptq`.
    """

    config: Mapping[str, Any]
    where: str
    dtype: np.dtype
    zeros: str


METHODS: Mapping[str, Callable[[Tensors, Asked], Found]] = {
    "gptq": lambda tensors, a: gptq.leaves(tensors, a.config, a.where, a.zeros),
    "awq": lambda tensors, a: awq.leaves(tensors, a.config, a.where),
    "compressed-tensors": lambda t, a: compressed_tensors.leaves(t, a.config, a.where),
    "fp8": lambda tensors, a: hf_fp8.leaves(tensors, a.config, a.where, a.dtype),
    "bitsandbytes": lambda tensors, a: bitsandbytes.leaves(tensors),
}
"""Formats by the `quant_method` of their configuration."""


def read(path: str | PathLike, *, zeros: str = "") -> Imported:
    """Open a checkpoint; parameters are decoded when they are asked for.

    Args:
        path: a `.gguf` file, or a folder with `.safetensors` files and the configuration beside
            them, as the Hugging Face hub has them. Without a `quantization_config` all are floats.
        zeros: of GPTQ's version 1 with zero points of 0, where the configuration does not name the
            writer: "words" if one was taken off from whole words, "codes" if from each code.

    Returns:
        a mapping from names to QTensors and arrays.

    Raises:
        CheckpointError: a format that is not supported, a damaged file or a missing tensor.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        return gguf.read(path)
    if not path.is_dir():
        raise CheckpointError(f"Give a folder or a .gguf file; {path} is neither.")
    tensors, (config, where, dtype) = open_folder(path), _configuration(path)
    method = _method(config, where)
    found = METHODS[method](tensors, Asked(config, where, dtype, zeros)) if method else Found()
    rest = [name for name in tensors if name not in found.used and name not in found.left]
    return Imported(
        method or "safetensors", found.leaves | floats(tensors, rest), tuple(found.left)
    )


def _configuration(folder: Path) -> tuple[Mapping[str, Any], str, np.dtype]:
    """What says how a folder is quantized, the file of that, and the dtype of its floats."""
    dtype = np.dtype(ml_dtypes.bfloat16)
    for file in (folder / name for name in CONFIGS):
        if not file.exists():
            continue
        config = _json(file)
        dtype = _dtype(config, dtype)
        if file.name != CONFIGS[0]:
            return config, str(file), dtype
        if own := config.get("quantization_config") or config.get("compression_config"):
            return own, str(file), dtype
    return {}, str(folder), dtype


def _json(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"Fetch {file} again: it is no JSON ({error}).") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"Fetch {file} again: it is no JSON object.")
    return config


def _dtype(config: Mapping[str, Any], otherwise: np.dtype) -> np.dtype:
    known = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    name = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return np.dtype(known.get(name, otherwise))


def _method(config: Mapping[str, Any], where: str) -> str:
    """The format's name in `METHODS`; "" for floats."""
    if not config:
        return ""
    named = config.get("quant_method") or ("gptq" if "desc_act" in config else "")
    if "version" in config and "zero_point" in config and not named:
        named = "awq"
    packing = str(config.get("packing_format", ""))
    if named in ("auto-round", "auto_round", "intel/auto-round"):
        named = "awq" if packing.endswith("awq") else "gptq"
    if named not in METHODS:
        raise CheckpointError(
            f"Give a checkpoint whose quant_method is {alternatives(METHODS)}; {where} says "
            f"{named!r}."
        )
    return named
