"""AWQ, fp8 in blocks and nf4, against AutoAWQ's and bitsandbytes' own arrays."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qpass import QTensor
from qpass.checkpoint.formats import read
from qpass.errors import CheckpointError
from tests.checkpoint.formats.written import float32, folder, vectors

VECTORS = vectors()
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
STATE = "weight.quant_state.bitsandbytes__nf4"


def awq(path, config=AWQ, **changes):
    parts = {k: v for k, v in VECTORS["awq"].items() if k != "value"} | changes
    return folder(path, {f"q_proj.{name}": array for name, array in parts.items()}, config)


def test_awq_is_what_autoawq_dequantizes(tmp_path):
    weight = read(awq(tmp_path))["q_proj.weight"]
    assert isinstance(weight, QTensor)
    assert weight.zero is not None
    np.testing.assert_array_equal(weight.dequantize(), VECTORS["awq"]["value"])


def test_awq_gives_an_order_of_outputs_that_is_not_the_files(tmp_path):
    """So that the order is not taken for granted: words as they are give another matrix."""
    given = VECTORS["awq"]
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    plain = (given["qweight"].view(np.uint32)[..., None] >> shifts & 15).reshape(96, 64).T
    weight = read(awq(tmp_path))["q_proj.weight"]
    found = np.asarray(weight.codes).astype(int) + 8
    assert not np.array_equal(found, plain)
    np.testing.assert_array_equal(found[[0, 2, 4, 6, 1, 3, 5, 7]], plain[:8])


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (AWQ | {"version": "gemv"}, {}, "'gemv'"),
        (AWQ | {"bits": 8}, {}, "8 bits"),
        (AWQ, {"scales": np.ones((2, 64), np.float16)}, "shape"),
        (AWQ, {"qzeros": np.ones((3, 7), np.int32)}, "shape"),
    ],
)
def test_awq_that_does_not_fit_is_refused(tmp_path, config, changes, message):
    path = awq(tmp_path, config, **changes)
    with pytest.raises(CheckpointError, match=message):
        read(path)["q_proj.weight"]


def fp8(path, shape, block, config=None, **changes):
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 100, shape).astype(ml_dtypes.float8_e4m3fn)
    grid = tuple(-(-n // size) for n, size in zip(shape, block, strict=True))
    scale = rng.uniform(1e-4, 1e-3, grid).astype(np.float32)
    parts = {"o.weight": weight, "o.weight_scale_inv": scale} | changes
    quantization = config or {"quant_method": "fp8", "weight_block_size": list(block)}
    return folder(path, parts, quantization, torch_dtype="bfloat16"), weight, scale


@pytest.mark.parametrize("shape", [(256, 384), (200, 330), (96, 130), (128, 64)])
def test_fp8_blocks_are_as_large_as_the_configuration_says(tmp_path, shape):
    path, codes, scale = fp8(tmp_path, shape, (128, 128))
    weight = read(path)["o.weight"]
    spread = np.repeat(np.repeat(scale, 128, 0), 128, 1)[: shape[0], : shape[1]]
    exact = codes.astype(np.float64) * spread.astype(np.float64)
    assert weight.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(weight.codes).view(np.uint8), codes.view(np.uint8))
    np.testing.assert_array_equal(float32(weight), exact.astype(np.float32))


def test_fp8_blocks_of_200_rows_are_not_inferred_from_two_scales(tmp_path):
    """With blocks of 100 rows, as the two scales alone suggest, rows 100 to 127 would be wrong."""
    path, codes, scale = fp8(tmp_path, (200, 256), (128, 128))
    halves = codes.astype(np.float32) * np.repeat(np.repeat(scale, 100, 0), 128, 1)
    wrong = float32(read(path)["o.weight"]) != halves
    assert wrong[100:128].any()
    assert not wrong[:100].any()
    assert not wrong[128:].any()


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"quant_method": "fp8"}, {}, "weight_block_size"),
        ({"quant_method": "fp8", "weight_block_size": [100, 128]}, {}, None),
        ({"quant_method": "fp8", "weight_block_size": [64, 128]}, {}, r"shape \[4, 2\]"),
        (None, {"o.weight": np.zeros((200, 256), np.float32)}, "not fp8"),
    ],
)
def test_fp8_that_does_not_fit_is_refused(tmp_path, config, changes, message):
    path, _, _ = fp8(tmp_path, (200, 256), (128, 128), config, **changes)
    if message is None:  # a grid of two rows fits 100 rows as well: the configuration decides
        assert read(path)["o.weight"].groups == ((-2, 100), (-1, 128))
        return
    with pytest.raises(CheckpointError, match=message):
        read(path)["o.weight"]


def nf4(path, case, **changes):
    parts = {k: v for k, v in VECTORS[case].items() if k != "value"} | changes
    tensors = {f"up.{name}": array for name, array in parts.items()}
    return folder(path, tensors, {"quant_method": "bitsandbytes", "load_in_4bit": True})


@pytest.mark.parametrize("case", ["nf4", "nf4.nested", "nf4.straddling"])
def test_nf4_is_what_bitsandbytes_dequantizes(tmp_path, case):
    found, value = read(nf4(tmp_path, case)), VECTORS[case]["value"]
    weight, reason = found.decode("up.weight")
    dense = case == "nf4.straddling"
    assert isinstance(weight, QTensor) != dense
    assert ("from row to row" in reason) == dense
    assert list(found) == ["up.weight"]
    assert weight.dtype == jnp.bfloat16
    np.testing.assert_array_equal(weight if dense else weight.dequantize(), value)


def as_bytes(state):
    return np.frombuffer(json.dumps(state).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight.quant_map": np.zeros(16, np.float32)}, "table of nf4"),
        ({"weight": np.zeros((9, 1), np.uint8)}, "shape"),
        ({"weight.absmax": np.zeros(9, np.float32)}, "shape"),
        ({STATE: as_bytes({"blocksize": 64, "dtype": "bfloat16"})}, "KeyError: 'shape'"),
        ({STATE: np.frombuffer(b"{", np.uint8)}, "not understood"),
        ({STATE: as_bytes({"blocksize": 0, "dtype": "bfloat16", "shape": [2, 2]})}, "below 1"),
    ],
)
def test_nf4_that_does_not_fit_is_refused(tmp_path, changes, message):
    path = nf4(tmp_path, "nf4", **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        read(path)["up.weight"]
    assert "model.safetensors" in str(error.value)


def test_int8_of_bitsandbytes_is_refused(tmp_path):
    path = nf4(tmp_path, "nf4", SCB=np.ones(3, np.float32))
    with pytest.raises(CheckpointError, match="outliers"):
        read(path)
