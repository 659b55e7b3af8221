"""Exports: words that the formats' own packers write, and the same values read back."""

import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass import QTensor
from qpass.checkpoint.formats import read, write_compressed_tensors, write_gptq
from qpass.checkpoint.formats.tensors import open_folder
from qpass.errors import CheckpointError
from qpass.numerics import as_quantizer, quantize
from tests.checkpoint.formats import test_compressed_tensors as compressed
from tests.checkpoint.formats import test_gptq as gptq
from tests.checkpoint.formats.written import float32

GPTQ = [tag for tag in gptq.CASES if "desc_act" not in tag]
COMPRESSED = [case for case in compressed.VECTORS if case.startswith(("pack", "nvfp4", "mxfp4"))]
SCHEMES = {
    "gptq": ("int2 g32", "int3 g32 asym", "int4 g128", "int8", "int8 g32 asym"),
    "compressed-tensors": (
        *("int2 g32", "int3 g32 asym", "int4", "int5 g32", "int6 g32 asym", "int8 g32"),
        *("fp8_e4m3", "fp8_e4m3 b16x32", "fp8_e4m3 tensor", "nvfp4", "mxfp4"),
    ),
}
FOREIGN = os.environ.get("QPASS_FOREIGN_PYTHON", "")


def weight(scheme, seed=0, shape=(64, 256)):
    x = jax.random.normal(jax.random.key(seed), shape)
    return quantize(x, as_quantizer(scheme), (1,), pack=True)


@pytest.mark.parametrize("tag", GPTQ)
def test_gptq_words_are_gptqmodels(tmp_path, tag):
    given = gptq.case(tag)
    found = read(gptq.written(tmp_path, tag, 2))["model.layers.0.q.weight"]
    write_gptq(tmp_path / "again", {"q.weight": found})
    parts = open_folder(tmp_path / "again")
    for part, name in {"qweight": "qweight", "qzeros": "qzeros_v2", "scales": "scales"}.items():
        np.testing.assert_array_equal(parts[f"q.{part}"], given[name], part)
        assert parts[f"q.{part}"].dtype == given[name].dtype
    np.testing.assert_array_equal(parts["q.g_idx"], given["g_idx"])


@pytest.mark.parametrize("case", COMPRESSED)
def test_compressed_words_are_its_own(tmp_path, case):
    found = read(compressed.written(tmp_path, case))[f"{compressed.NAME}.weight"]
    write_compressed_tensors(tmp_path / "again", {"q.weight": found}, scales="bfloat16")
    parts = open_folder(tmp_path / "again")
    given = {k: v for k, v in compressed.VECTORS[case].items() if k != "value"}
    assert set(parts) == {f"q.{name}" for name in given}
    for name, array in given.items():
        if name == "weight_global_scale":  # read as a factor, written as its reciprocal
            np.testing.assert_allclose(parts[f"q.{name}"], array, rtol=2.0**-22)
            continue
        np.testing.assert_array_equal(parts[f"q.{name}"], array, name)
        assert parts[f"q.{name}"].dtype == array.dtype


WRITERS = {
    "gptq": lambda *given: write_gptq(*given, scales="float32"),
    "compressed-tensors": lambda *given: write_compressed_tensors(*given, config={"a": 1}),
}
EACH = [(form, scheme) for form, schemes in SCHEMES.items() for scheme in schemes]


def layers(form):
    """A weight of each scheme, and floats beside them."""
    parameters = {f"layer{i}.weight": weight(s, i) for i, s in enumerate(SCHEMES[form])}
    return parameters | {"head.weight": jnp.ones((4, 4)), "head.bias": jnp.ones(4, jnp.bfloat16)}


@pytest.mark.parametrize("form", WRITERS)
def test_layers_of_all_kinds_in_one_checkpoint_come_back(tmp_path, form):
    parameters = layers(form)
    WRITERS[form](tmp_path / "x", parameters)
    found = read(tmp_path / "x")
    assert set(found) == set(parameters)
    for i, scheme in enumerate(SCHEMES[form]):
        name = f"layer{i}.weight"
        assert isinstance(found[name], QTensor), scheme
        assert found[name].qtype == parameters[name].qtype
        rtol = 2.0**-22 if scheme == "nvfp4" else 0
        np.testing.assert_allclose(float32(found[name]), float32(parameters[name]), rtol, 0)
    np.testing.assert_array_equal(found["head.bias"], parameters["head.bias"])


def test_the_configuration_says_what_readers_ask(tmp_path):
    write_compressed_tensors(
        tmp_path / "c",
        {"m.q.weight": weight("int8"), "m.head.weight": jnp.ones((4, 4))},
        config={"model_type": "llama"},
        activations={"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
    )
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["model_type"] == "llama"
    quantization = config["quantization_config"]
    assert (quantization["format"], quantization["ignore"]) == ("int-quantized", ["m.head"])
    group = quantization["config_groups"]["group_0"]
    assert (group["targets"], group["weights"]["strategy"]) == (["m.q"], "channel")
    assert group["input_activations"]["strategy"] == "token"
    assert open_folder(tmp_path / "c")["m.q.weight"].dtype == np.int8


@pytest.mark.parametrize(
    ("form", "name", "value", "message"),
    [
        ("gptq", "q.weight", weight("nf4 g64"), "int2, int3, int4 or int8"),
        ("gptq", "q.weight", weight("int4 g32", shape=(12, 64)), "do not fill words"),
        ("gptq", "q.weight", weight("int4 g32", shape=(2, 32, 32)), "as a matrix"),
        ("gptq", "q.kernel", weight("int4 g32"), "<layer>.weight"),
        ("compressed-tensors", "q.weight", weight("nf4 g64"), "mxfp4 or nvfp4"),
        ("compressed-tensors", "q.weight", weight("uint4 g32 asym"), "mxfp4 or nvfp4"),
        ("compressed-tensors", "q.weight", jnp.ones((2, 2)), "there are none"),
    ],
)
def test_what_a_format_has_no_room_for_is_refused(tmp_path, form, name, value, message):
    with pytest.raises(CheckpointError, match=message):
        WRITERS[form](tmp_path / "x", {name: value})
    assert not (tmp_path / "x").exists()


def test_scales_are_not_rounded_unasked(tmp_path):
    parameters = {"q.weight": weight("int4 g32")}
    with pytest.raises(CheckpointError, match=r"rounded=True.* scales of q.weight are no float16"):
        write_gptq(tmp_path / "x", parameters)
    write_gptq(tmp_path / "x", parameters, rounded=True)
    found = read(tmp_path / "x")["q.weight"]
    np.testing.assert_array_equal(found.codes, parameters["q.weight"].codes)
    np.testing.assert_allclose(found.scale, parameters["q.weight"].scale, rtol=2.0**-11)


@pytest.mark.foreign
@pytest.mark.skipif(not FOREIGN, reason="QPASS_FOREIGN_PYTHON names no Python with those packages")
@pytest.mark.parametrize("form", WRITERS)
def test_their_own_packages_read_what_is_written(tmp_path, form):
    parameters = layers(form)
    WRITERS[form](tmp_path, parameters)
    script = Path(__file__).with_name("foreign_values.py")
    subprocess.run(
        [FOREIGN, script, form, tmp_path], check=True, env=os.environ | {"PYTHONPATH": ""}
    )
    values = np.load(tmp_path / "values.npz")
    for i, scheme in enumerate(SCHEMES[form]):
        # bf16 steps of theirs in nvfp4 and mxfp4; a product in float16 in GPTQModel
        rtol = 2.0**-7 if "fp4" in scheme else 2.0**-10 if form == "gptq" else 2.0**-22
        found = float32(parameters[f"layer{i}.weight"])
        np.testing.assert_allclose(values[f"layer{i}"], found, rtol, 1e-6, err_msg=scheme)
