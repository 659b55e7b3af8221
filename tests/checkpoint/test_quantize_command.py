"""`qpass quantize`: what it writes is what `q.quantize` gives, and a run that was ended goes on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import qpass
from qpass.checkpoint import describe, stream
from qpass.checkpoint.index import open_source
from qpass.checkpoint.wishes import job_of_wishes, wishes
from qpass.cli.commands import app
from qpass.errors import CheckpointError
from qpass.numerics import QTensor
from tests.checkpoint.test_save import assert_same

RNG = np.random.default_rng(0)
FLOATS = {
    "layers.0.up.weight": RNG.normal(size=(24, 16)).astype(np.float32),
    "layers.0.down.weight": RNG.normal(size=(16, 24)).astype(np.float32),
    "head.weight": RNG.normal(size=(10, 16)).astype(np.float32),
    "norm": np.ones(16, np.float32),
    "steps": np.arange(3),
}
MODEL = """
import jax
import jax.numpy as jnp
import qpass

RULES = [qpass.Rule(path="**/up", weight="int8"), qpass.Rule(path="**/down", weight="int4 g8"),
         qpass.Rule(path="**", keep=True)]


def fn(params, x):
    for layer in params["layers"]:
        x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    return x * params["norm"]


def factory():
    like = {"layers": [{"up": jax.ShapeDtypeStruct((16, 24), jnp.float32),
                        "down": jax.ShapeDtypeStruct((24, 16), jnp.float32)}],
            "norm": jax.ShapeDtypeStruct((16,), jnp.float32)}
    return fn, (like, jax.ShapeDtypeStruct((2, 16), jnp.float32)), RULES
"""


@pytest.fixture
def source(tmp_path):
    save_file(FLOATS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def run(*words):
    return CliRunner().invoke(app, ["quantize", *map(str, words)])


def refused(*words):
    result = run(*words)
    assert result.exit_code == 2
    assert not result.stdout
    return result.stderr


def test_matrices_by_one_type(source, tmp_path):
    result = run(source, tmp_path / "q", "--weight", "int8", "--contract", "1", "--keep", "head/**")
    assert result.exit_code == 0, result.stderr
    assert "2 of 5 tensors quantized" in result.stdout
    loaded = qpass.load(tmp_path / "q")
    assert {n for n, x in loaded.items() if isinstance(x, QTensor)} == {
        "layers.0.up.weight",
        "layers.0.down.weight",
    }
    np.testing.assert_array_equal(loaded["steps"], FLOATS["steps"])
    name = "layers.0.up.weight"
    q = qpass.transform(lambda w, x: x @ w.T, qpass.Rule(weight="int8"))
    assert_same(loaded[name], q.quantize(jnp.asarray(FLOATS[name]), jnp.ones((2, 16))))
    assert not (tmp_path / "q.partial").exists()
    assert all(
        f.name == "manifest.json" or f.name[:8] == "tensors-" for f in (tmp_path / "q").iterdir()
    )


def test_rules_in_order(source, tmp_path):
    rules = [
        "path=**/down/*,weight=int4 g8 rms,3,contract=1",
        "path=layers/**,weight=fp8_e4m3,contract=0",
    ]
    words = [word for rule in rules for word in ("--rule", rule)]
    assert run(source, tmp_path / "q", *words).exit_code == 0
    loaded = qpass.load(tmp_path / "q")
    assert str(loaded["layers.0.down.weight"].qtype) == "int4"
    assert loaded["layers.0.down.weight"].groups == ((-1, 8),)
    assert loaded["layers.0.up.weight"].blocks == (24, 1)
    assert describe(tmp_path / "q").record["wishes"][0]["weight"] == "int4 g8 rms,3"


def test_axes_of_a_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "streamed_model.py").write_text(MODEL)
    layer = {"up": FLOATS["layers.0.down.weight"], "down": FLOATS["layers.0.up.weight"]}
    params = {"layers": [layer], "norm": FLOATS["norm"]}
    save_file(
        {
            "layers.0.up": layer["up"],
            "layers.0.down": layer["down"],
            "norm": params["norm"],
        },
        tmp_path / "model.safetensors",
    )
    words = tmp_path / "model.safetensors", tmp_path / "q", "--fn", "streamed_model:factory"
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    import streamed_model

    q = qpass.transform(streamed_model.fn, streamed_model.RULES)
    expected = q.quantize(jax.tree.map(jnp.asarray, params), jnp.ones((2, 16)))
    assert_same(qpass.load(tmp_path / "q"), expected)
    assert describe(tmp_path / "q").plan is not None

    save_file(
        {"layers.0.up": FLOATS["norm"], "other": FLOATS["norm"]}, tmp_path / "bad.safetensors"
    )
    said = refused(tmp_path / "bad.safetensors", tmp_path / "r", "--fn", "streamed_model:factory")
    assert "missing: layers/0/down, norm; unexpected: other; different: layers/0/up" in said


def test_an_axis_is_never_guessed(source, tmp_path):
    out = tmp_path / "q"
    assert "Say which axis" in refused(source, out, "--weight", "int8")
    assert "Say which axis" in refused(source, out, "--rule", "path=**,weight=int8")
    assert "nothing is to be quantized" in refused(source, out)
    assert "fit none" in refused(source, out, "--weight", "int8", "--contract", 1, "--keep", "nose")
    said = refused(source, out, "--rule", "path=norm,weight=int8,contract=1")
    assert "its shape is [16]" in said
    said = refused(source, out, "--rule", "path=steps,weight=int8,contract=0")
    assert "float32, float16 or bfloat16" in said
    assert not out.exists()


def test_stacked_weights_need_words(tmp_path):
    save_file({"w": np.ones((2, 4, 8), np.float32)}, tmp_path / "m.safetensors")
    words = tmp_path / "m.safetensors", tmp_path / "q"
    assert "it is no matrix" in refused(*words, "--weight", "int8", "--contract", "1")
    assert run(*words, "--rule", "path=w,weight=int8,contract=1,separate=0").exit_code == 0
    assert qpass.load(tmp_path / "q")["w"].scale.shape == (2, 8, 1)


def test_values_that_are_no_numbers(tmp_path):
    save_file({"w": np.full((4, 4), np.nan, np.float32)}, tmp_path / "m.safetensors")
    said = refused(
        tmp_path / "m.safetensors", tmp_path / "q", "--weight", "int8", "--contract", "0"
    )
    assert "16 of 16 values are NaN or infinite" in said
    assert not (tmp_path / "q").exists()


def index_of(folder, files):
    for file, names in files.items():
        save_file({n: FLOATS[n] for n in names}, folder / file)
    weight_map = {n: file for file, names in files.items() for n in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder / "model.safetensors.index.json"


def test_files_of_an_index(tmp_path):
    names = sorted(FLOATS)
    index = index_of(tmp_path, {"a.safetensors": names[:2], "b.safetensors": names[2:]})
    save_file({"stray": FLOATS["norm"]}, tmp_path / "stray.safetensors")
    assert sorted(open_source(tmp_path)) == sorted(open_source(index)) == names
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"Fetch 'b\.safetensors'"):
        open_source(tmp_path)
    index.write_text(json.dumps({"weight_map": {"w": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"it is no file"):
        open_source(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"no index of files"):
        open_source(tmp_path)


def test_a_run_that_was_ended_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BATCH_BYTES", 1)
    job = job_of_wishes(open_source(source), wishes("int8", [], [], "1"))
    done = []

    def tick():
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream.stream(job, tmp_path / "q", tick)
    assert not (tmp_path / "q").exists()
    with (tmp_path / "q.partial" / "done.jsonl").open("ab") as journal:
        journal.write(b'{"half')
    other = job_of_wishes(open_source(source), wishes("int4", [], [], "1"))
    with pytest.raises(CheckpointError, match="to start anew"):
        stream.stream(other, tmp_path / "q")
    assert stream.stream(job, tmp_path / "q") == 2
    stream.stream(job, tmp_path / "whole")
    assert_same(qpass.load(tmp_path / "q"), qpass.load(tmp_path / "whole"))
    with pytest.raises(CheckpointError, match="not there yet"):
        stream.stream(job, tmp_path / "q")
