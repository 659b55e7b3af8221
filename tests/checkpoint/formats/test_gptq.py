"""Checkpoints of GPTQ and AutoRound, against arrays that GPTQModel wrote."""

import re
from pathlib import Path

import numpy as np
import pytest

from qpass import QTensor
from qpass.checkpoint.formats import read
from qpass.errors import CheckpointError
from tests.checkpoint.formats.written import codes, float32, folder

VECTORS = np.load(Path(__file__).parents[2] / "data" / "gptq" / "gptq.npz")
CASES = sorted({key.removesuffix(".codes") for key in VECTORS.files if key.endswith(".codes")})
GPTQMODEL = {"meta": {"quantizer": ["gptqmodel:7.3.4"]}}


def case(tag):
    return {
        key.rsplit(".", 1)[1]: VECTORS[key] for key in VECTORS.files if key.rsplit(".", 1)[0] == tag
    }


def bits_of(tag):
    return 4 if tag.startswith("tp") else int(tag[1])


def group_of(tag):
    return 16 if "vllm" in tag else int(re.search(r"\.g(-?\d+)", tag)[1])


def written(tmp_path, tag, version, **config):
    given = case(tag)
    zeros = given[f"qzeros_v{version}"]
    tensors = {
        "qweight": given["qweight"],
        "qzeros": zeros,
        "scales": given["scales"],
        "g_idx": given["g_idx"],
    }
    quantization = {
        "quant_method": "gptq",
        "bits": bits_of(tag),
        "group_size": group_of(tag),
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
    }
    named = {f"model.layers.0.q.{part}": array for part, array in tensors.items()}
    return folder(tmp_path / f"{tag}.{version}", named, quantization | config)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tag", CASES)
def test_codes_and_values_are_those_that_gptqmodel_wrote(tmp_path, tag, version):
    given, found = case(tag), read(written(tmp_path, tag, version, **GPTQMODEL))
    weight, reason = found.decode("model.layers.0.q.weight")
    assert found.shape("model.layers.0.q.weight") == weight.shape == given["codes"].T.shape
    if "desc_act" in tag:
        assert "g_idx" in reason
        assert weight.dtype == np.float16
        np.testing.assert_array_equal(weight, given["dequant_f16"].T)
        return
    half = 1 << (bits_of(tag) - 1)
    assert reason == ""
    assert isinstance(weight, QTensor)
    np.testing.assert_array_equal(codes(weight, half), given["codes"].T)
    np.testing.assert_array_equal(weight.dequantize(), given["dequant_f16"].T)
    steps = given["codes"].astype(np.float32) - given["zeros"].astype(np.float32)[given["g_idx"]]
    exact = given["scales"].astype(np.float32)[given["g_idx"]] * steps
    np.testing.assert_array_equal(float32(weight), exact.T)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_zero_points_of_zero_in_version_1_ask_for_the_writer(tmp_path, bits):
    path = written(tmp_path, f"b{bits}.asym.g32", 1)
    found = read(path)
    with pytest.raises(CheckpointError, match=r"Say who wrote .*qzeros.*zeros='words'") as error:
        found["model.layers.0.q.weight"]
    assert str(path) in str(error.value)
    weight = read(path, zeros="words")["model.layers.0.q.weight"]
    np.testing.assert_array_equal(weight.dequantize(), case(f"b{bits}.asym.g32")["dequant_f16"].T)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_wrapped_code_by_code_can_be_asked_for(tmp_path, bits):
    tag = f"b{bits}.asym.g32"
    given, path = case(tag), written(tmp_path, tag, 1)
    wrapped = (given["zeros"].astype(np.uint32) - 1) & ((1 << bits) - 1)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = np.sum(
        wrapped.reshape(len(wrapped), -1, 32 // bits) << shifts, axis=-1, dtype=np.uint32
    )
    parts = {part: given[part] for part in ("qweight", "scales", "g_idx")} | {
        "qzeros": words.view(np.int32)
    }
    config = {"quant_method": "gptq", "bits": bits, "group_size": 32}
    path = folder(tmp_path / "codes", {f"q.{k}": v for k, v in parts.items()}, config)
    weight = read(path, zeros="codes")["q.weight"]
    np.testing.assert_array_equal(weight.dequantize(), given["dequant_f16"].T)


def test_symmetric_checkpoints_need_no_writer_and_have_no_zero_points(tmp_path):
    weight = read(written(tmp_path, "b4.sym.g32", 1))["model.layers.0.q.weight"]
    assert weight.zero is None


@pytest.mark.parametrize(("packing", "version"), [("auto_round:auto_gptq", 1), ("auto_round", 2)])
def test_autorounds_names_of_the_two_versions(tmp_path, packing, version):
    names = {"quant_method": "auto-round", "packing_format": packing, "checkpoint_format": None}
    found = read(written(tmp_path, "b4.asym.g32", version, **names))
    np.testing.assert_array_equal(
        found["model.layers.0.q.weight"].dequantize(), case("b4.asym.g32")["dequant_f16"].T
    )


def test_layers_may_have_widths_of_their_own(tmp_path):
    own = {"dynamic": {"-:.*lm_head": {}, r"+:model\.layers\.0\.": {"bits": 8}}}
    path = written(tmp_path, "b8.asym.g32", 2, bits=4, **own)
    weight = read(path)["model.layers.0.q.weight"]
    np.testing.assert_array_equal(codes(weight, 128), case("b8.asym.g32")["codes"].T)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": 5}, "2, 3, 4 or 8 bits"),
        ({"group_size": 0}, "group size"),
        ({"checkpoint_format": "marlin"}, "'marlin'"),
        ({"bits": 8}, "holds 64 of 8 bits"),
        ({"group_size": 64}, "ask for the shape"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tmp_path, config, message):
    path = written(tmp_path, "b4.asym.g32", 2, **config)
    with pytest.raises(CheckpointError, match=message) as error:
        read(path)["model.layers.0.q.weight"]
    assert str(path) in str(error.value)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales", "g_idx"])
def test_parts_of_other_shapes_are_refused(tmp_path, part):
    given = case("b4.asym.g32")
    parts = {name: given[name] for name in ("qweight", "scales", "g_idx")} | {
        "qzeros": given["qzeros_v2"]
    }
    parts[part] = parts[part][:-1]
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}
    path = folder(tmp_path, {f"q.{name}": array for name, array in parts.items()}, config)
    with pytest.raises(CheckpointError, match=r"Mend q\.\w+ in .*model.safetensors"):
        read(path)["q.weight"]
