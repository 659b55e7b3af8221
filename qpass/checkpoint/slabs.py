"""Quantize a tensor of a file a few rows at a time, to the bits that all of it would give at once.

Rows here are indices of the axis that codes have first in memory. Those that share no scale with
others are quantized apart, so that neither the floats nor what the formulas need on the way are
ever held for the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from qpass.checkpoint.formats.tensors import Stored
from qpass.errors import CheckpointError
from qpass.numerics import QTensor, count_nonfinite
from qpass.ops.weights import Storage, abstract_weight, encode_weight, refuse_nonfinite

SLAB_BYTES = 2**24
"""Bytes of a slab in float32."""

ALIGNED = 64
"""Bytes; JAX on CPU copies arrays that begin elsewhere."""


def quantize_stored(stored: Stored, storage: Storage, where: str) -> QTensor:
    """What `encode_weight` gives for a tensor of a file, with arrays of NumPy.

    Args:
        stored: floats.
        storage: how.
        where: the tensor and its file, for errors.

    Raises:
        QuantizeError: it holds NaN or infinities.
        CheckpointError: the file was cut off meanwhile.
    """
    whole = abstract_weight(jax.ShapeDtypeStruct(stored.shape, stored.dtype), storage)
    bad, slabs = 0, []
    for floats in _slabs(stored, whole.physical_order[0], rows_at_once(whole)):
        x = jnp.asarray(floats)
        bad += int(count_nonfinite(x))
        slabs.append([np.asarray(part) for part in jax.tree.leaves(encode_weight(x, storage))])
    refuse_nonfinite(bad, whole.size, where)
    arrays = [np.concatenate(parts) for parts in zip(*slabs, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(whole), arrays)


def rows_at_once(whole: QTensor) -> int:
    """Rows of a slab: as many as `SLAB_BYTES` hold and scales divide; all, where one is of all."""
    n = whole.codes.shape[0]
    beside = (whole.scale, whole.zero, whole.outer, whole.sums)
    if not whole.size or any(x is not None and x.shape[0] == 1 for x in beside):
        return max(n, 1)
    block = whole.physical_blocks[0]
    return block * max(1, SLAB_BYTES // (4 * block * (whole.size // n)))


def _slabs(stored: Stored, axis: int, rows: int) -> Iterator[np.ndarray]:
    n = stored.shape[axis]
    cuts = [slice(first, min(first + rows, n)) for first in range(0, max(n, 1), rows)]
    if axis:  # each row is spread over the file
        whole = _read(stored)
        yield from (whole[(slice(None),) * axis + (cut,)] for cut in cuts)
        return
    row = math.prod(stored.shape[1:])
    for cut in cuts:
        shape = (cut.stop - cut.start, *stored.shape[1:])
        offset = stored.offset + cut.start * row * stored.dtype.itemsize
        yield _read(replace(stored, shape=shape, offset=offset))


def _read(stored: Stored) -> np.ndarray:
    """The elements, read once, where JAX on CPU takes the array as it lies instead of a copy.

    A mapped file would be held, too, as long as it is looked at.
    """
    size = math.prod(stored.shape) * stored.dtype.itemsize
    room = np.empty(size + ALIGNED, np.uint8)
    start = -room.ctypes.data % ALIGNED
    raw = room[start : start + size]
    with stored.file.open("rb") as opened:
        opened.seek(stored.offset)
        if opened.readinto(raw.data) != size:
            raise CheckpointError(f"Fetch {stored.file} again: it was cut off meanwhile.")
    return raw.view(stored.dtype).reshape(stored.shape)
