"""What is saved comes back bit for bit, at once or not at all, and only where it fits."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import qpass
from qpass import checkpoint
from qpass.checkpoint import CheckpointError
from qpass.numerics import QTensor, as_quantizer, quantize

X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 40)), jnp.float32)
TYPES = ["int8", "int8 asym", "int4 g8", "int4 asym", "int3 g8", "int2 g8", "int6", "uint4 asym"]
TYPES += [
    "fp8_e4m3",
    "fp8_e5m2 g8",
    "nf4 g8",
    "fp4_e2m1 g8",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "int8 pow2",
]


def fields(q):
    """All that a QTensor holds, with arrays as bytes."""
    leaves, tree = jax.tree.flatten(q)
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in leaves], tree


def assert_same(one, other):
    is_leaf = lambda x: isinstance(x, QTensor)  # noqa: E731
    ones, tree = jax.tree.flatten(one, is_leaf=is_leaf)
    others, structure = jax.tree.flatten(other, is_leaf=is_leaf)
    assert tree == structure
    assert [fields(x) for x in ones] == [fields(x) for x in others]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_type_bit_for_bit(tmp_path, dtype):
    params = {text: quantize(X.astype(dtype), as_quantizer(text), (1,)) for text in TYPES}
    qpass.save(tmp_path, params)
    assert_same(qpass.load(tmp_path), params)
    assert_same(qpass.load(tmp_path, like=jax.eval_shape(lambda: params)), params)


DTYPES = ["bool", "int8", "uint16", "int64", "float16", "bfloat16", "float64", "complex64"]
DTYPES += ["int4", "uint2", "float8_e4m3fnuz", "float8_e8m0fnu", "float4_e2m1fn"]


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 3), (1,)])
def test_arrays_of_every_dtype(tmp_path, shape):
    rng = np.random.default_rng(0)
    raw = {name: rng.integers(1, 3, shape) for name in DTYPES}
    params = {n: np.asarray(x).astype(getattr(ml_dtypes, n, n)) for n, x in raw.items()}
    with jax.enable_x64(True):
        qpass.save(tmp_path, params)
        loaded = qpass.load(tmp_path)
    for name, x in params.items():
        assert loaded[name].dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(loaded[name]), x)


class Pair(NamedTuple):
    a: object
    b: object


def test_containers_come_back(tmp_path):
    params = {"layers": [{"w": X}, (X, None, {})], "z": X[0], "a b": {"c:d": X}}
    qpass.save(tmp_path, params)
    assert_same(qpass.load(tmp_path), params)


def test_containers_that_are_not_pythons_need_a_tree(tmp_path):
    params = Pair(X, {"w": X})
    qpass.save(tmp_path, params)
    with pytest.raises(CheckpointError, match=r"Give like=, a tree with the containers"):
        qpass.load(tmp_path)
    assert_same(qpass.load(tmp_path, like=Pair(X, {"w": X})), params)


def decoder(p, x):
    return jnp.tanh(x @ p["up"]) @ p["down"]


PARAMS = {"up": X, "down": X.T}
ARGS = (jnp.ones((2, 12)),)


def transformed(weight):
    return qpass.transform(decoder, qpass.Rule(weight=weight))


def test_a_quantized_function_runs_on_what_was_loaded(tmp_path):
    q = transformed("int4 g4")
    stored = q.quantize(PARAMS, *ARGS)
    plan = q.plan(PARAMS, *ARGS)
    qpass.save(tmp_path, stored, plan, {"rules": ["int4 g4"]})
    like = jax.eval_shape(q.quantize, PARAMS, *ARGS)
    np.testing.assert_array_equal(q(qpass.load(tmp_path, like), *ARGS), q(stored, *ARGS))
    about = checkpoint.describe(tmp_path)
    assert about.record == {"rules": ["int4 g4"]}
    assert about.plan == json.loads(plan.to_json())
    assert about.versions["qpass"] == qpass.__version__


def test_what_does_not_fit_is_listed(tmp_path):
    stored = transformed("int4 g4").quantize(PARAMS, *ARGS)
    qpass.save(tmp_path, {"up": stored["up"], "old": X})
    like = jax.eval_shape(transformed("int8").quantize, PARAMS, *ARGS)
    with pytest.raises(CheckpointError) as error:
        qpass.load(tmp_path, like)
    text = str(error.value)
    assert "missing: down; unexpected: old; different: up (int4 of float32" in text
    assert "groups=[[-2, 4]]" in text
    assert "there, int8 of float32 (codes=int8[40, 12]" in text


def test_a_float_leaf_takes_what_stands_for_it(tmp_path):
    stored = transformed("int3 g4").quantize(PARAMS, *ARGS)
    qpass.save(tmp_path, stored)
    assert_same(qpass.load(tmp_path, like=PARAMS), stored)
    with pytest.raises(CheckpointError, match=r"different: down .* there, float32\[40, 13\] here"):
        qpass.load(tmp_path, like={"up": X, "down": jnp.zeros((40, 13))})


def test_arrays_go_to_the_devices_that_are_asked_for(tmp_path):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("d"))
    q = jax.device_put(quantize(X, as_quantizer("int8"), (1,)), sharding)
    qpass.save(tmp_path, {"w": q})
    loaded = qpass.load(tmp_path, like={"w": q})["w"]
    assert loaded.codes.sharding == loaded.scale.sharding == sharding
    assert_same(loaded, q)
    assert_same(qpass.load(tmp_path)["w"], q)


def test_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("qpass.checkpoint.saving.SHARD_BYTES", 1000)
    params = {f"w{k}": X + k for k in range(5)}
    qpass.save(tmp_path, params)
    assert len(list(tmp_path.glob("tensors-*"))) == 5
    assert_same(qpass.load(tmp_path), params)
    qpass.save(tmp_path, {"w": X})
    assert len(list(tmp_path.glob("tensors-*"))) == 1


def test_a_save_that_ends_early_leaves_the_old_one(tmp_path, monkeypatch):
    qpass.save(tmp_path, {"w": X})

    def fail(*_):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("qpass.checkpoint.saving.replace_text", fail)
        with pytest.raises(OSError, match="disk"):
            qpass.save(tmp_path, {"w": X + 1})
    assert_same(qpass.load(tmp_path), {"w": X})
    assert len(list(tmp_path.glob("tensors-*"))) == 2
    qpass.save(tmp_path, {"w": X + 2})
    assert_same(qpass.load(tmp_path), {"w": X + 2})
    assert len(list(tmp_path.glob("tensors-*"))) == 1


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"Save jax.random.key_data of key"):
        qpass.save(tmp_path / "a", {"key": jax.random.key(0)})
    with pytest.raises(CheckpointError, match=r"n is a str"):
        qpass.save(tmp_path / "a", {"n": "text"})
    with pytest.raises(CheckpointError, match=r"both have the path 'a/b'"):
        qpass.save(tmp_path / "a", {"a/b": X, "a": {"b": X}})
    with pytest.raises(CheckpointError, match="plain values that JSON has"):
        qpass.save(tmp_path / "a", {"w": X}, record={"at": float("nan")})
    assert not (tmp_path / "a" / "manifest.json").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(CheckpointError, match=r"holds thesis\.txt"):
        qpass.save(tmp_path, {"w": X})
    with pytest.raises(CheckpointError, match="is a file"):
        qpass.save(tmp_path / "thesis.txt", {"w": X})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_saves_at_once(tmp_path):
    from qpass.checkpoint.writing import alone

    qpass.save(tmp_path, {"w": X})
    with alone(tmp_path), pytest.raises(CheckpointError, match="another process is saving"):
        qpass.save(tmp_path, {"w": X})
    qpass.save(tmp_path, {"w": X})
