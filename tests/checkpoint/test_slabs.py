"""Tensors that are quantized a few rows at a time have the bits that they have as a whole."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.checkpoint import arrays, slabs
from qpass.checkpoint.formats.tensors import Stored
from qpass.errors import CheckpointError, QuantizeError
from qpass.numerics import as_quantizer
from qpass.ops.weights import Storage, abstract_weight, encode_weight
from tests.checkpoint.test_save import assert_same

BLOCKS = as_quantizer("int8").per_block(8, 16)
APART = ["int8", "int4 g8 asym", "int3 g8", "int4 g8 mse", BLOCKS]
TOGETHER = ["nvfp4", "int8 tensor"]
MORE = [
    "int8 asym",
    "int4 g8",
    "fp8_e4m3",
    "nf4 g8",
    "mxfp4",
    "mxfp8",
    "int8 pow2",
    "int4 g8 rms,3",
]
slow = [pytest.param(text, marks=pytest.mark.slow) for text in MORE]


def written(folder: Path, x: np.ndarray) -> Stored:
    """A file with that array behind some other bytes."""
    file = folder / "floats"
    file.write_bytes(bytes(7) + x.tobytes())
    return Stored(file, x.dtype, x.shape, 7)


def floats(shape, dtype="float32"):
    return np.random.default_rng(0).normal(size=shape).astype(jnp.dtype(dtype))


@pytest.fixture
def watched(monkeypatch):
    """Slabs of 4 kB, and the shapes of those that were quantized."""
    shapes = []

    def watch(x, storage):
        shapes.append(x.shape)
        return encode_weight(x, storage)

    monkeypatch.setattr(slabs, "SLAB_BYTES", 4096)
    monkeypatch.setattr(slabs, "encode_weight", watch)
    return shapes


@pytest.mark.parametrize(("dtype", "contract"), [("bfloat16", 0), ("float32", 1)])
@pytest.mark.parametrize("text", [*APART, *TOGETHER, *slow])
def test_bits_are_those_of_the_whole(tmp_path, watched, text, contract, dtype):
    x = floats((40, 80), dtype)
    storage = Storage(as_quantizer(text), (contract,), (), sums=True)
    assert_same(
        slabs.quantize_stored(written(tmp_path, x), storage, "w"),
        encode_weight(jnp.asarray(x), storage),
    )
    assert (len(watched) == 1) == (text in TOGETHER)
    if text not in TOGETHER:
        assert all(4 * np.prod(shape) <= 4096 for shape in watched)
        assert sum(shape[1 - contract] for shape in watched) == x.shape[1 - contract]


def test_layers_of_a_stack_come_one_by_one(tmp_path, watched):
    x, storage = floats((3, 16, 64)), Storage(as_quantizer("int4 g8"), (1,), (0,))
    got = slabs.quantize_stored(written(tmp_path, x), storage, "w")
    assert_same(got, encode_weight(jnp.asarray(x), storage))
    assert watched == [(1, 16, 64)] * 3


def test_blocks_of_rows_are_not_cut(monkeypatch):
    monkeypatch.setattr(slabs, "SLAB_BYTES", 4 * 80 * 11)
    like = jax.ShapeDtypeStruct((70, 80), jnp.float32)
    for quantizer, rows in [(as_quantizer("int8"), 11), (BLOCKS, 8), (as_quantizer("nvfp4"), 70)]:
        assert slabs.rows_at_once(abstract_weight(like, Storage(quantizer, (1,), ()))) == rows


def test_an_empty_tensor(tmp_path, watched):
    storage = Storage(as_quantizer("int8"), (1,), ())
    for shape in [(0, 8), (8, 0)]:
        got = slabs.quantize_stored(written(tmp_path, floats(shape)), storage, "w")
        assert got.shape == shape


def test_values_that_are_no_numbers_are_counted_in_all_slabs(tmp_path, watched):
    x = floats((70, 80))
    x[0, 0] = x[33, 5] = x[69, 79] = np.nan
    storage = Storage(as_quantizer("int8"), (1,), ())
    with pytest.raises(QuantizeError, match="quantize w: 3 of 5600 values are NaN"):
        slabs.quantize_stored(written(tmp_path, x), storage, "w")


def test_a_file_that_is_cut_off_meanwhile(tmp_path, watched):
    stored = written(tmp_path, floats((70, 80)))
    stored.file.write_bytes(bytes(9000))
    with pytest.raises(CheckpointError, match="it was cut off meanwhile"):
        slabs.quantize_stored(stored, Storage(as_quantizer("int8"), (1,), ()), "w")


@pytest.mark.parametrize("dtype", ["int4", "uint2"])
def test_codes_are_packed_in_parts(monkeypatch, dtype):
    x = np.random.default_rng(0).integers(0, 4, (5, 7)).astype(jnp.dtype(dtype))
    whole = arrays.to_file(x, "w")
    monkeypatch.setattr(arrays, "PACKED_AT_ONCE", 8)
    np.testing.assert_array_equal(arrays.to_file(x, "w"), whole)
    np.testing.assert_array_equal(arrays.from_file(whole, x.dtype, x.shape), x)
