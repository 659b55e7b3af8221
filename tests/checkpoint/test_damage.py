"""Damaged checkpoints: an error in words, whatever was done to the files; never other numbers."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.checkpoint import CheckpointError
from qpass.checkpoint.manifest import _digest
from qpass.numerics import as_quantizer, quantize

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16)), jnp.float32)
MUTATED = 500


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    weight = quantize(X, as_quantizer("int4 g8 asym"), (1,))
    odd = quantize(X, as_quantizer("int3 g8"), (1,))
    qpass.save(folder, {"w": weight, "odd": odd, "b": [X[0]]}, record={"rules": ["int4 g8"]})
    return folder


def numbers(folder):
    params = qpass.load(folder)
    values = params["w"].dequantize(), params["odd"].dequantize(), params["b"][0]
    return [np.asarray(x).tobytes() for x in values]


def flip(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def double(rng, data):
    return data + data


def swap(rng, data):
    at = rng.randrange(len(data))
    return data[at:] + data[:at]


def fill(rng, data):
    at, size = rng.randrange(len(data)), rng.randrange(1, 64)
    return data[:at] + bytes(rng.randrange(256) for _ in range(size)) + data[at + size :]


WAYS = [flip, cut, double, swap, fill]


def attempt(folder):
    """The numbers, or the error."""
    try:
        return numbers(folder)
    except CheckpointError as error:
        return str(error)


def test_mutated_files(whole, tmp_path):
    """Bytes after the last array, and other spaces in JSON, do no harm; all else is noticed."""
    rng, before = random.Random(0), numbers(whole)
    unharmed = 0
    for number in range(MUTATED):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        file = rng.choice(sorted(f for f in folder.iterdir() if f.name != ".lock"))
        file.write_bytes(rng.choice(WAYS)(rng, file.read_bytes()))
        found = attempt(folder)
        assert found == before or str(folder) in found
        unharmed += found == before
        shutil.rmtree(folder)
    assert 0 < unharmed < MUTATED // 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB


def rewritten(whole, folder, change):
    """A copy whose manifest was changed by somebody who makes its digest fit."""
    shutil.copytree(whole, folder)
    file = folder / "manifest.json"
    found = json.loads(file.read_text())
    change(found)
    body = {name: part for name, part in found.items() if name not in ("format", "digest")}
    file.write_text(json.dumps({**found, "digest": _digest(body)}))
    return folder


def part(found):
    return found["leaves"]["w"]["parts"]["codes"]


def put(*keys, value):
    def change(found):
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    return change


W = ("leaves", "w")
CODES = (*W, "parts", "codes")
DEEP = [0]
for _ in range(500):
    DEEP = [DEEP]
CHANGES = [
    (put(*CODES, "file", value="../../etc/passwd"), "a file called"),
    (put(*CODES, "file", value="/dev/zero"), "a file called"),
    (put(*CODES, "tensor", value="w:scale"), "is float32"),
    (put(*CODES, "tensor", value="nothing"), "says that it holds nothing"),
    (put(*CODES, "shape", value=[2**40, 2**40]), "manifest.json says"),
    (put(*CODES, "shape", value=[-1]), "the shape"),
    (put(*CODES, "shape", value=["8"]), "the shape"),
    (put(*CODES, "dtype", value="object"), "the dtype 'object'"),
    (put(*CODES, "dtype", value="os.system"), "the dtype"),
    (put(*CODES, "digest", value="0" * 32), "are not those written"),
    (put(*CODES, value=7), "is damaged"),
    (put(*W, "tensor", "qtype", value={"name": "int4"}), "is damaged"),
    (put(*W, "tensor", "qtype", "bits", value=10**9), "is damaged"),
    (put(*W, "tensor", "groups", value=[[-1, 3]]), "is damaged"),
    (put(*W, "tensor", "order", value=[5]), "is damaged"),
    (put(*W, "tensor", "packed", value=[10**12, 4, "int4"]), "is damaged"),
    (put(*W, "tensor", value=[]), "is damaged"),
    (put("leaves", value=[]), "is damaged"),
    (put("format", value="qpass/2"), "its format is 'qpass/2'"),
]
TREES = [
    (put("tree", value={"dict": {"w": 0}}), "a tree of 1 leaves for 3"),
    (put("tree", value=DEEP), "the container"),
    (put("tree", value={"__import__": ["os"]}), "the container"),
]


@pytest.mark.parametrize(("change", "text"), [*CHANGES, *TREES])
def test_manifests_that_lie(whole, tmp_path, change, text):
    folder = rewritten(whole, tmp_path / "changed", change)
    with pytest.raises(CheckpointError) as error:
        qpass.load(folder)
    assert str(folder) in str(error.value)
    assert text in str(error.value)


@pytest.mark.parametrize(("change", "text"), CHANGES)
def test_manifests_that_lie_where_a_tree_is_asked_for(whole, tmp_path, change, text):
    folder = rewritten(whole, tmp_path / "changed", change)
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        qpass.load(folder, {"w": X, "odd": X, "b": [X[0]]})


def test_a_missing_file(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    next(folder.glob("tensors-*")).unlink()
    with pytest.raises(CheckpointError, match=r"Fetch .*tensors-.*manifest\.json names it"):
        qpass.load(folder)
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        qpass.load(tmp_path / "nowhere")


KILLED = """
import sys, numpy as np, qpass
w = np.zeros((64, 4096), np.float32)
print("begin", flush=True)
for number in range(1, 10**6):
    qpass.save(sys.argv[1], {"w": w + np.float32(number), "v": w - np.float32(number)})
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process by a signal")
@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path, times):
    """A process that saves again and again is killed; what is there is always one whole save."""
    rng, seen = random.Random(0), []
    for _ in range(times):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "begin\n"
            time.sleep(rng.uniform(0, 0.3))
            child.send_signal(signal.SIGKILL)
        if (tmp_path / "manifest.json").exists():
            params = qpass.load(tmp_path)
            number = float(params["w"][0, 0])
            assert (params["w"] == number).all()
            assert (params["v"] == -number).all()
            seen.append(number)
    assert seen
    qpass.save(tmp_path, {"w": X})
    assert len(list(tmp_path.glob("tensors-*"))) == 1
