"""Write QTensors as GPTQ version 2 or compressed-tensors, in the layouts that vLLM reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from qpass.checkpoint.formats import compressed_write, gptq_write
from qpass.checkpoint.formats.leaves import Value
from qpass.checkpoint.formats.rows import Rows, rows_of
from qpass.errors import CheckpointError
from qpass.numerics import QTensor

type Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Written:
    """A checkpoint as it is to be written.

    Attributes:
        tensors: by name.
        config: the `quantization_config`.
    """

    tensors: Arrays = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def write_gptq(
    folder: str | PathLike,
    parameters: Mapping[str, Value],
    *,
    config: Mapping[str, Any] | None = None,
    scales: str = "float16",
    rounded: bool = False,
) -> None:
    """Write a folder with GPTQ's version 2: `model.safetensors`, and `config.json`.

    Args:
        folder: it is made where it is not there.
        parameters: by name. Weights of int2, int3, int4 and int8 `[out, in]`, named
            `<layer>.weight`, are written as codes; arrays as they are.
        config: of the model, which `quantization_config` is added to.
        scales: the dtype that scales are written in: "float16", "bfloat16" or "float32".
        rounded: round scales that this dtype does not have; else they are an error.

    Raises:
        CheckpointError: a weight that the format has no room for.
    """
    _check_names(parameters)
    rows = _rows(parameters)
    tensors = _floats(parameters, rows)
    for name, weight in rows.items():
        parts = gptq_write.tensors(weight, _scales(weight, scales, rounded))
        tensors |= _named(name, parts)
    _write(Path(folder), Written(tensors, gptq_write.config(rows, _ignored(tensors))), config)


def write_compressed_tensors(
    folder: str | PathLike,
    parameters: Mapping[str, Value],
    *,
    config: Mapping[str, Any] | None = None,
    activations: Mapping[str, Any] | None = None,
    scales: str = "float32",
    rounded: bool = False,
) -> None:
    """Write a folder with compressed-tensors: `model.safetensors`, and `config.json`.

    Args:
        folder: it is made where it is not there.
        parameters: by name. Weights of integers of 2 to 8 bits, fp8, mxfp4 and nvfp4 `[out, in]`,
            named `<layer>.weight`, are written as codes; arrays as they are.
        config: of the model, which `quantization_config` is added to.
        activations: what stands in the configuration for activations, as
            `{"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}`; None: float.
        scales: the dtype that float32 scales are written in: "float16", "bfloat16" or "float32".
        rounded: round scales that this dtype does not have; else they are an error.

    Raises:
        CheckpointError: a weight that the format has no room for.
    """
    _check_names(parameters)
    rows = _rows(parameters)
    tensors = _floats(parameters, rows)
    for name, weight in rows.items():
        narrow = weight.scale.dtype != np.float32
        scale = weight.scale if narrow else _scales(weight, scales, rounded)
        tensors |= _named(name, compressed_write.tensors(weight, scale, activations is not None))
    made = compressed_write.config(rows, activations, _ignored(tensors))
    _write(Path(folder), Written(tensors, made), config)


def _check_names(parameters: Mapping[str, Value]) -> None:
    for name, value in parameters.items():
        if isinstance(value, QTensor) and not name.endswith(".weight"):
            raise CheckpointError(
                f"Name quantized weights <layer>.weight, as these formats do; got {name!r}."
            )


def _rows(parameters: Mapping[str, Value]) -> dict[str, Rows]:
    """Quantized weights by the name of their layer."""
    return {
        name.removesuffix(".weight"): rows_of(value, name)
        for name, value in parameters.items()
        if isinstance(value, QTensor)
    }


def _floats(parameters: Mapping[str, Value], rows: Mapping[str, Rows]) -> Arrays:
    return {
        name: np.asarray(value)
        for name, value in parameters.items()
        if name.removesuffix(".weight") not in rows or not name.endswith(".weight")
    }


def _named(layer: str, parts: Arrays) -> Arrays:
    return {f"{layer}.{part}": np.ascontiguousarray(array) for part, array in parts.items()}


def _ignored(tensors: Arrays) -> list[str]:
    """Layers whose weight is a matrix of floats."""
    suffix = ".weight"
    return [
        n.removesuffix(suffix) for n, x in tensors.items() if n.endswith(suffix) and _is_float(x)
    ]


def _is_float(x: np.ndarray) -> bool:
    return x.ndim == 2 and x.dtype.itemsize > 1 and x.dtype.kind not in "iub"


def _scales(weight: Rows, dtype: str, rounded: bool) -> np.ndarray:
    known = ("float16", "bfloat16", "float32")
    if dtype not in known:
        raise CheckpointError(f"Write scales as {' or '.join(known)}; got {dtype!r}.")
    target = np.dtype(getattr(ml_dtypes, dtype, dtype))
    found = weight.scale.astype(target)
    changed = int(np.sum(found.astype(np.float32) != weight.scale))
    if changed and not rounded:
        raise CheckpointError(
            f"Give rounded=True, or scales='float32' where the format's readers take it: {changed} "
            f"of {found.size} scales of {weight.name} are no {dtype}, and would change the values."
        )
    if not np.isfinite(found.astype(np.float32)).all():
        raise CheckpointError(f"Give scales='float32': those of {weight.name} overflow {dtype}.")
    return found


def _write(folder: Path, written: Written, config: Mapping[str, Any] | None) -> None:
    """Both files, each under another name first: a reader never sees half of one."""
    save = _saver()
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "model.safetensors.new"
    save(written.tensors, scratch, metadata={"format": "pt"})
    scratch.replace(folder / "model.safetensors")
    text = json.dumps({**(config or {}), "quantization_config": written.config}, indent=2)
    scratch = folder / "config.json.new"
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(folder / "config.json")


def _saver() -> Callable:
    try:
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise CheckpointError(
            "Install qpass-jax[checkpoint] to write files: that takes the package safetensors."
        ) from error
    return save_file
