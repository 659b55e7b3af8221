"""Folders as the Hugging Face hub has them, and numbers that tests compare with."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from qpass.numerics.layout import plain


def folder(path, tensors, quantization=None, **config):
    """``path`` with these tensors in one file, and a ``config.json``."""
    path.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(arrays, path / "model.safetensors")
    if quantization is not None:
        config["quantization_config"] = quantization
    (path / "config.json").write_text(json.dumps(config))
    return path


def codes(q, shift=0):
    """The codes of a QTensor in logical order as integers, moved up by ``shift``."""
    return np.asarray(plain(q).in_order().codes).astype(np.int32) + shift


def float32(q):
    """What a QTensor stands for, in float32."""
    return np.asarray(q.astype(np.float32).dequantize())


def vectors(name="checkpoints"):
    """Arrays of ``tests/data`` by case and tensor, in the dtypes that their keys name."""
    found = {}
    with np.load(Path(__file__).parents[2] / "data" / f"{name}.npz") as arrays:
        for key in arrays.files:
            case, tensor = key.rsplit(":", 1)[0].split("/")
            dtype = jnp.dtype(key.rsplit(":", 1)[1])
            found.setdefault(case, {})[tensor] = arrays[key].view(dtype)
    return found
