"""The classifier's loader: folded batch norms, and files of PyTorch without PyTorch."""

import io
import pickle
import struct
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_bench.costs.convolutions import agreement
from qpass_bench.models import torch_files
from qpass_bench.models.efficientnet import Config, EfficientNet, Stage, blocks, to_tree

TINY = Config((Stage(1, 3, 1, 1, 4), Stage(2, 5, 2, 2, 6)), stem=4, head=8, classes=5)


def checkpoint(config):
    rng = np.random.default_rng(0)
    found = {}

    def conv(name, norm, shape):
        found[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{part}"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)

    conv("_conv_stem", "_bn0", (config.stem, 3, 3, 3))
    channels = config.stem
    for k, b in enumerate(blocks(config)):
        prefix = f"_blocks.{k}."
        if b.widens:
            conv(f"{prefix}_expand_conv", f"{prefix}_bn0", (b.inside, channels, 1, 1))
        conv(f"{prefix}_depthwise_conv", f"{prefix}_bn1", (b.inside, 1, b.kernel, b.kernel))
        conv(f"{prefix}_project_conv", f"{prefix}_bn2", (b.out, b.inside, 1, 1))
        channels = b.out
    conv("_conv_head", "_bn1", (config.head, channels, 1, 1))
    found["_fc.weight"] = rng.standard_normal((config.classes, config.head)).astype(np.float32)
    found["_fc.bias"] = np.zeros(config.classes, np.float32)
    return found


def test_the_tree_is_the_network_s_own():
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    own = jax.eval_shape(EfficientNet(TINY).init, jax.random.key(0), images)["params"]
    tree = to_tree(checkpoint(TINY), TINY)
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, own)


def test_a_batch_norm_is_in_the_convolution_before_it():
    found = checkpoint(TINY)
    stem = to_tree(found, TINY)["stem"]
    x = np.random.default_rng(1).standard_normal(27)
    at_place = x @ np.float64(stem["kernel"]).reshape(27, -1) + stem["bias"]
    kernel = np.float64(found["_conv_stem.weight"]).transpose(2, 3, 1, 0).reshape(27, -1)
    parts = (found[f"_bn0.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    weight, bias, mean, var = map(np.float64, parts)
    want = (x @ kernel - mean) / np.sqrt(var + 1e-3) * weight + bias
    np.testing.assert_allclose(at_place, want, rtol=1e-5)


def test_agreement_counts_first_classes():
    want, got = np.eye(4) * [9, 9, 9, 1], np.eye(4)[[0, 1, 3, 3]]
    told = agreement(want, got)
    assert (told["images"], told["top1_agreement"]) == (4, 0.75)
    assert (told["sure_images"], told["top1_agreement_where_sure"]) == (3, 2 / 3)


class FloatStorage:
    """Stands in for PyTorch's class of that name in a file."""


def written(values):
    """A file as PyTorch before 1.6 writes it: two tensors that share one storage."""
    module = ModuleType("torch")
    FloatStorage.__module__, module.FloatStorage = "torch", FloatStorage
    file = io.BytesIO()

    class Writer(pickle.Pickler):
        def persistent_id(self, what):
            return ("storage", FloatStorage, "7", "cpu", 6, None) if what is STORAGE else None

        def reducer_override(self, what):
            if isinstance(what, Tensor):
                return rebuild, (STORAGE, what.offset, what.shape, what.strides, False, None)
            return NotImplemented

    utils = ModuleType("torch._utils")
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "torch", module)
        patch.setitem(__import__("sys").modules, "torch._utils", utils)
        for part in (torch_files.MAGIC, 1001, {}):
            pickle.dump(part, file, 2)
        Writer(file, 2).dump({"a": Tensor(0, (2, 3), (3, 1)), "b": Tensor(1, (3, 2), (1, 3))})
        pickle.dump(["7"], file, 2)
    return file.getvalue() + struct.pack("<q", len(values)) + values.tobytes()


STORAGE = object()


class Tensor:
    def __init__(self, offset, shape, strides):
        self.offset, self.shape, self.strides = offset, shape, strides


def rebuild(*args):
    raise AssertionError("nothing is rebuilt while writing")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(torch_files.CheckpointError, match=r"before 1\.6"):
        torch_files.load(path)


def test_tensors_are_views_of_one_storage(tmp_path):
    values = np.arange(6, dtype=np.float32)
    path = tmp_path / "two.pth"
    path.write_bytes(written(np.append(values, 6).astype(np.float32)))
    found = torch_files.load(path)
    np.testing.assert_array_equal(found["a"], values.reshape(2, 3))
    np.testing.assert_array_equal(found["b"], np.reshape(values + 1, (2, 3)).T)
