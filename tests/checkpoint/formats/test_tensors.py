"""Safetensors files that are damaged, and all that is in them if they are not."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from qpass.checkpoint.formats import read
from qpass.checkpoint.formats.tensors import DTYPES, open_folder
from qpass.errors import CheckpointError, QPassError
from tests.checkpoint.formats.written import vectors


def written(path, header, data=bytes(64)):
    path.mkdir(exist_ok=True)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2, 8), offsets=(0, 64)):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def test_arrays_of_all_dtypes_come_back(tmp_path):
    known = [np.int8, np.uint16, np.int64, np.float16, np.float64, ml_dtypes.bfloat16]
    known += [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.bool_]
    given = {f"t{i}": np.arange(6).reshape(2, 3).astype(d) for i, d in enumerate(known)}
    given |= {"empty": np.zeros((0, 4), np.float32), "scalar": np.array(3.0)}
    save_file(given, tmp_path / "a.safetensors")
    found = open_folder(tmp_path)
    for name, array in given.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert {a.dtype for a in given.values()} <= set(DTYPES.values())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"[" * 100_000, "no JSON"),
        (entry(dtype="Q9"), "not understood"),
        (entry(shape=("2", 8)), "not understood"),
        (entry(shape=(2, -8)), "does not fit"),
        (entry(shape=(2**40, 2**40)), "does not fit"),
        (entry(offsets=(0, 60)), "does not fit"),
        (entry(offsets=(64, 128)), "does not fit"),
        (entry(offsets=(-64, 0)), "does not fit"),
        ({"w": 3}, "not understood"),
    ],
)
def test_headers_that_lie_are_refused_with_the_file(tmp_path, header, message):
    path = written(tmp_path, header)
    with pytest.raises(CheckpointError, match=message) as error:
        open_folder(path)
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xff" * 8, (2**40).to_bytes(8, "little")])
def test_files_that_are_cut_off_are_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="cut off or no safetensors file"):
        open_folder(tmp_path)


def test_names_in_two_files_and_folders_without_any_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds none"):
        read(tmp_path)
    for name in "ab":
        save_file({"w": np.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="Keep one of two files"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="neither"):
        read(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json again"):
        read(tmp_path)


def test_a_name_that_is_not_there_has_its_nearest(tmp_path):
    save_file({"model.norm.weight": np.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"did you mean 'model\.norm\.weight'"):
        read(tmp_path)["model.norms.weight"]


def test_flipped_bytes_give_errors_of_qpass_or_other_numbers_never_others(tmp_path):
    given = {k: v for k, v in vectors()["pack3.asym"].items() if k != "value"}
    save_file({f"q.{name}": array for name, array in given.items()}, tmp_path / "a.safetensors")
    weights = {"num_bits": 3, "strategy": "group", "group_size": 32, "symmetric": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    config = {"quant_method": "compressed-tensors", "config_groups": groups}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    whole, rng = (tmp_path / "a.safetensors").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        raw = bytearray(whole)
        start = len(raw) if rng.random() < 0.2 else 500
        raw[rng.integers(start)] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.safetensors").write_bytes(raw[: rng.choice([len(raw), len(raw) - 7])])
        try:
            found = read(tmp_path)
            assert all(found[name].shape == found.shape(name) for name in found)
        except QPassError:
            refused += 1
    assert refused > 75
