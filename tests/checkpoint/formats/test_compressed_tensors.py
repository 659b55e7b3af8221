"""Checkpoints of compressed-tensors, against what its own compressors packed and unpacked."""

import jax.numpy as jnp
import numpy as np
import pytest

from qpass import QTensor
from qpass.checkpoint.formats import read
from qpass.checkpoint.formats.compressed_tensors import unpack_integers
from qpass.errors import CheckpointError
from tests.checkpoint.formats.written import codes, float32, folder, vectors

VECTORS = vectors()
PACKED = [case for case in VECTORS if case.startswith("pack")]
EXACT = [case for case in VECTORS if case.startswith(("pack", "int8", "fp8", "mxfp"))]
NAME = "model.layers.0.mlp.up_proj"


def weights(case):
    kind, _, rest = case.partition(".")
    strategy = rest if rest in ("channel", "tensor", "block") else "group"
    if case == "int8.asym":
        strategy = "channel"
    bits = int(kind[4:]) if kind.startswith("pack") else 4 if kind.endswith("fp4") else 8
    given = {"num_bits": bits, "strategy": strategy, "type": "float" if "fp" in kind else "int"}
    return given | {"group_size": 32, "block_structure": [16, 32], "symmetric": rest != "asym"}


def config(given, *more, targets=("Linear",)):
    groups = [{"targets": list(targets), "weights": given}, *more]
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups)},
    }


def written(path, case, quantization=None, **changes):
    parts = {name: array for name, array in VECTORS[case].items() if name != "value"} | changes
    tensors = {f"{NAME}.{name}": array for name, array in parts.items() if array is not None}
    return folder(path, tensors, quantization or config(weights(case)))


@pytest.mark.parametrize("case", EXACT)
def test_values_are_those_of_its_own_decompression(tmp_path, case):
    found, value = read(written(tmp_path, case)), VECTORS[case]["value"]
    weight, reason = found.decode(f"{NAME}.weight")
    assert isinstance(weight, QTensor)
    assert (list(found), reason) == ([f"{NAME}.weight"], "")
    assert found.shape(f"{NAME}.weight") == weight.shape == value.shape
    assert weight.dtype == jnp.bfloat16
    np.testing.assert_array_equal(weight.dequantize(), value)
    assert (weight.zero is not None) == case.endswith("asym")


@pytest.mark.parametrize("case", PACKED)
def test_packed_codes_and_zero_points_give_the_values_in_float64(tmp_path, case):
    weight = read(written(tmp_path, case))[f"{NAME}.weight"]
    group = weight.shape[1] // weight.scale.shape[1]
    zero = 0 if weight.zero is None else np.repeat(weight.zero, group, axis=1)
    steps = codes(weight) - np.asarray(zero, np.float64)
    exact = steps * np.repeat(np.asarray(weight.scale, np.float64), group, axis=1)
    assert np.ptp(codes(weight)) == (1 << weights(case)["num_bits"]) - 1
    np.testing.assert_array_equal(exact.astype(jnp.bfloat16), VECTORS[case]["value"])


@pytest.mark.parametrize("case", [c for c in EXACT if c.startswith(("int8", "fp8", "mxfp8"))])
def test_plain_codes_are_kept(tmp_path, case):
    weight = read(written(tmp_path, case))[f"{NAME}.weight"]
    np.testing.assert_array_equal(weight.codes, VECTORS[case]["weight"])


def test_nvfp4_keeps_codes_and_scales_and_multiplies_by_the_reciprocal(tmp_path):
    weight, given = read(written(tmp_path, "nvfp4"))[f"{NAME}.weight"], VECTORS["nvfp4"]
    np.testing.assert_array_equal(weight.scale, given["weight_scale"])
    packed = given["weight_packed"]
    fields = np.stack([packed & 15, packed >> 4], axis=-1).reshape(40, 96)
    np.testing.assert_array_equal(np.asarray(weight.codes).view(np.uint8) & 15, fields)
    total = given["weight_global_scale"].astype(np.float64)
    scale = np.repeat(given["weight_scale"].astype(np.float64) / total, 16, axis=1)
    exact = np.asarray(weight.codes).astype(np.float64) * scale
    np.testing.assert_allclose(float32(weight), exact, rtol=2.0**-22, atol=0)
    # Its own decompression divides in bf16 or float32 before it multiplies.
    np.testing.assert_allclose(exact, given["value"].astype(np.float64), rtol=2.0**-7)


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_older_files_have_whole_words(bits):
    given = VECTORS[f"whole{bits}"]
    (found,) = unpack_integers([(given["words"], 320)], bits, "here")
    np.testing.assert_array_equal(found.astype(int) - (1 << (bits - 1)), given["codes"])


def test_rows_that_either_packing_fits_are_refused():
    words = np.arange(8, dtype=np.int32).reshape(4, 2) * 123456789
    with pytest.raises(CheckpointError, match="older and in newer files"):
        unpack_integers([(words, 15)], 3, "here")


def test_a_layer_that_is_named_is_no_member_of_the_classes_group(tmp_path):
    other = {"targets": ["re:.*up_proj"], "weights": weights("pack4.sym")}
    path = written(tmp_path, "pack4.sym", config({"num_bits": 8, "strategy": "channel"}, other))
    np.testing.assert_array_equal(
        read(path)[f"{NAME}.weight"].dequantize(), VECTORS["pack4.sym"]["value"]
    )


def test_scales_of_activations_are_left_out_by_name_and_floats_stay(tmp_path):
    more = {"input_scale": np.ones(1, np.float32), "bias": np.arange(40, dtype=np.float16)}
    found = read(written(tmp_path, "fp8.tensor", **more))
    assert found.left == (f"{NAME}.input_scale",)
    np.testing.assert_array_equal(found[f"{NAME}.bias"], more["bias"])


def test_act_order_is_dense_with_the_reason(tmp_path):
    index = np.arange(96, dtype=np.int32)[::-1] // 32
    found = read(written(tmp_path, "pack4.asym", weight_g_idx=index))
    weight, reason = found.decode(f"{NAME}.weight")
    in_order = read(written(tmp_path / "x", "pack4.asym"))[f"{NAME}.weight"]
    zero = np.asarray(in_order.zero, np.float32)[:, index]
    exact = (codes(in_order) - zero) * np.asarray(in_order.scale)[:, index]
    assert "actorder" in reason
    np.testing.assert_array_equal(weight, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("pack4.sym", {"weight_packed": np.zeros((40, 11), np.int32)}, "do not fit"),
        ("pack4.sym", {"weight_shape": np.array([41, 96])}, "it says .41, 96. of 40 rows"),
        ("pack4.sym", {"weight_shape": None}, "none"),
        ("pack4.asym", {"weight_zero_point": np.zeros((5, 2), np.int32)}, "shape"),
        ("pack4.sym", {"weight_scale": np.ones((40, 2), np.float32)}, "shape"),
        ("pack4.sym", {"weight_scale": np.full((40, 3), np.nan, np.float32)}, "120 of its scales"),
        ("nvfp4", {"weight_global_scale": np.zeros(1, np.float32)}, "divided by it"),
        ("fp8.block", {"weight_scale": np.ones((2, 3), np.float32)}, "shape"),
        ("pack8.sym", {"weight_packed": np.zeros((40, 72), np.uint8)}, "floats of 8 bits"),
        ("mxfp4", {"weight_scale": np.ones((40, 3), np.float32)}, "exponents"),
        ("int8.channel", {"weight": np.zeros((40, 96), np.int16)}, "not fp8"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(tmp_path, case, changes, message):
    path = written(tmp_path, case, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        read(path)[f"{NAME}.weight"]
    assert NAME in str(error.value)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "compressed-tensors"}, "config_groups"),
        (config({"num_bits": 4, "strategy": "attention"}), "strategies"),
        (config({"num_bits": 4, "strategy": "group"}), "strategies"),
        (config({"num_bits": 8, "strategy": "block"}), "block_structure"),
        (config(weights("pack4.sym"), targets=["re:.*down"]), "in one group"),
        ({"quant_method": "exotic"}, "'exotic'"),
        (config(weights("int8.channel")) | {"sparsity_config": {"format": "24"}}, "'24'"),
        (config({}) | {"transform_config": {"config_groups": {"a": {}}}}, "not turned"),
    ],
)
def test_configurations_that_do_not_say_enough_are_refused(tmp_path, quantization, message):
    path = written(tmp_path, "pack4.sym", quantization)
    with pytest.raises(CheckpointError, match=message) as error:
        read(path)
    assert "config.json" in str(error.value)
