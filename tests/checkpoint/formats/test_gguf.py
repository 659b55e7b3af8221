"""GGUF files: codes kept, values those of the package gguf."""

from pathlib import Path

import numpy as np
import pytest

from qpass import QTensor
from qpass.checkpoint.formats import read
from qpass.checkpoint.formats.gguf import BLOCK_TYPES
from qpass.errors import CheckpointError
from tests.checkpoint.formats.written import codes, float32

gguf = pytest.importorskip("gguf", reason="reads GGUF files: qpass-jax[checkpoint]")

VECTORS = np.load(Path(__file__).parents[2] / "data" / "gguf.npz")
EXACT = ("Q4_0", "Q5_0", "Q8_0", "Q6_K")
WITH_MINIMUM = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")


def written(path, tensors):
    """A file with tensors by name: (data, type)."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "all.gguf"
    return read(written(path, {f"{k}.weight": (VECTORS[f"{k}.data"], k) for k in BLOCK_TYPES}))


def test_every_type_is_in_the_file(found):
    assert set(found) == {f"{kind}.weight" for kind in (*EXACT, *WITH_MINIMUM)}
    assert all(found.shape(name) == (6, 512) for name in found)


@pytest.mark.parametrize("kind", EXACT)
def test_values_without_a_minimum_are_exact(found, kind):
    weight, reason = found.decode(f"{kind}.weight")
    assert isinstance(weight, QTensor)
    assert (reason, weight.zero, weight.dtype) == ("", None, np.float32)
    np.testing.assert_array_equal(weight.dequantize(), VECTORS[f"{kind}.value"])


@pytest.mark.parametrize("kind", WITH_MINIMUM)
def test_values_with_a_minimum_are_a_few_roundings_away(found, kind):
    weight, value = found[f"{kind}.weight"], VECTORS[f"{kind}.value"]
    assert isinstance(weight, QTensor)
    assert weight.zero.dtype == np.float32
    blocks = np.abs(value).reshape(6, -1, 32)
    bound = np.repeat(blocks.max(-1), 32, axis=1) * 2.0**-21
    assert np.all(np.abs(float32(weight) - value) <= bound)
    assert np.any(float32(weight) != value)


@pytest.mark.parametrize("kind", WITH_MINIMUM)
def test_codes_with_a_minimum_are_those_of_the_file(found, kind):
    weight, value = found[f"{kind}.weight"], VECTORS[f"{kind}.value"].astype(np.float64)
    bits = BLOCK_TYPES[kind].bits
    steps = codes(weight, 1 << (bits - 1)).reshape(6, -1, 32)
    scale = np.asarray(weight.scale, np.float64)[..., None]
    least = value.reshape(6, -1, 32) - steps * scale
    spread = np.ptp(least, axis=-1)
    flat = np.ptp(value.reshape(6, -1, 32), axis=-1) == 0
    assert np.all(spread[~flat] <= np.abs(value).max() * 1e-6)
    assert flat.any()


def test_floats_are_arrays_and_other_types_say_why_they_are_dense(tmp_path):
    kind = gguf.GGMLQuantizationType.TQ2_0
    weight = np.random.default_rng(0).normal(size=(2, 256)).astype(np.float32)
    ternary = gguf.quantize(weight, kind)
    path = written(tmp_path / "x.gguf", {"norm": (weight[0], "F32"), "t": (ternary, "TQ2_0")})
    found = read(path)
    np.testing.assert_array_equal(found["norm"], weight[0])
    assert found.decode("norm").reason == ""
    np.testing.assert_array_equal(found["t"], gguf.dequantize(ternary, kind).reshape(2, 256))
    assert "TQ2_0" in found.decode("t").reason


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(3))
    with pytest.raises(CheckpointError, match=r"Fetch .*x\.gguf again"):
        read(path)
