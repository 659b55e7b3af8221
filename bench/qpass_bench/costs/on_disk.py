"""Bytes of a quantized tree on disk beside memory: every array of it in a file, as it is.

There is no format of checkpoints here: one `.npy` for each array of codes, scales and zero points.
NumPy has no types of four bits, so their codes are written two to a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from qpass.quantize import tree_nbytes

FOUR_BITS = ("int4", "uint4", "float4_e2m1fn")
WEIGHTS = ("int8", "int8 g64", "int4 g32", "int3 g32", "nf4 g64", "mxfp4")


def rows(width: int = 2048, weights: Sequence[str] = WEIGHTS) -> list[dict[str, Any]]:
    """A row for float32 and one for each quantizer, of a matrix of that many rows and columns."""
    x = jax.random.normal(jax.random.key(0), (width, width))
    return [_row("float32", x, x.nbytes), *(_quantized(x, weight) for weight in weights)]


def _quantized(x: jax.Array, weight: str) -> dict[str, Any]:
    q = qpass.transform(lambda w, x: x @ w, (qpass.Rule(path="**", weight=weight),))
    return _row(weight, q.quantize(x, jnp.ones((1, len(x)))), x.nbytes)


def _row(name: str, tree: Any, float_bytes: int) -> dict[str, Any]:
    memory, disk = tree_nbytes(tree), written(tree)
    ratios = {"memory_ratio": memory / float_bytes, "disk_ratio": disk / float_bytes}
    return {"weight": name, "memory": memory, "disk": disk, **ratios}


def written(tree: Any) -> int:
    """Bytes of the files of all arrays of a tree."""
    with TemporaryDirectory() as folder:
        for number, leaf in enumerate(jax.tree.leaves(tree)):
            np.save(Path(folder) / f"{number}.npy", as_bytes(leaf))
        return sum(file.stat().st_size for file in Path(folder).iterdir())


def as_bytes(x: jax.Array) -> np.ndarray:
    """An array in a type that files know: two codes of 4 bits, low first, others as bits."""
    array = np.asarray(x)
    if x.dtype.name in FOUR_BITS:
        nibbles = array.reshape(-1).view(np.uint8) & 15
        nibbles = np.pad(nibbles, (0, nibbles.size % 2))
        return nibbles[::2] | nibbles[1::2] << 4
    return array if array.dtype.kind in "biuf" else array.view(f"u{array.dtype.itemsize}")
