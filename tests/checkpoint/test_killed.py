"""Killed at any time, a save leaves the old checkpoint or the new one, and quantizing goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

import qpass
from qpass.checkpoint import CheckpointError, describe
from tests.checkpoint import killed
from tests.checkpoint.test_save import assert_same

TENSORS = 60
often = pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.slow)])
pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills a process by a signal")


class Children:
    """Children of one process, one after another."""

    def __init__(self, process):
        self.process = process
        self.rng = np.random.default_rng(1)

    def start(self, *job):
        """Wait until the child has begun; its process id."""
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        assert self.process.stdout.readline() == "begun\n"
        return child

    def finish(self):
        """What the child printed, and how it ended."""
        said = []
        while not (line := self.process.stdout.readline()).startswith("status"):
            assert line, said
            said.append(int(line))
        return said, int(line.split()[1])

    def seconds(self, *job):
        """How long a child takes that is left alone."""
        self.start(*job)
        before = time.perf_counter()
        assert self.finish()[1] == 0
        return time.perf_counter() - before

    def kill(self, longest, *job):
        """Kill a child after a random while; what it had done."""
        child = self.start(*job)
        time.sleep(float(self.rng.uniform(0, longest)))
        with contextlib.suppress(ProcessLookupError):  # it came to its end
            os.kill(child, signal.SIGKILL)
        return self.finish()[0]


@pytest.fixture
def children():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.checkpoint.killed"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        yield Children(process)
        process.stdin.close()


def generation(folder):
    """The generation that a folder holds as a whole, and how many files it does not name."""
    loaded = qpass.load(folder)
    scale = np.asarray(loaded.pop("q").scale)
    (found,) = set(scale.ravel().tolist())
    for k in range(killed.LEAVES):
        np.testing.assert_array_equal(loaded.pop(f"w{k}"), np.full((16, 8), found + k))
    assert not loaded
    return int(found), len({f.name for f in folder.glob("tensors-*")} - describe(folder).files)


@often
def test_a_save_leaves_the_old_one_or_the_new_one(tmp_path, children, times):
    each = children.seconds("save", f"{tmp_path}/whole", 1, 3) / 3
    number, first, midst = 0, 1, 0
    for kill in range(times):
        if kill % 3 == 0:  # there was none
            number, first = number + 1, 1
        folder = tmp_path / f"saved{number}"
        done = children.kill(2 * each, "save", str(folder), first, 1000)
        newest = done[-1] if done else first - 1
        try:
            found, others = generation(folder)
        except CheckpointError:
            assert newest == 0  # there was none and is none
            midst += any(folder.glob("tensors-*"))
        else:
            assert found in (newest, newest + 1)
            midst += others > 0
            first = found + 1
        qpass.save(folder, killed.params(first))  # the next one takes what is left over away
        assert generation(folder) == (first, 0)
        first += 1
    assert midst, "no child was killed in the midst"


@often
def test_quantizing_goes_on(tmp_path, children, times):
    source = tmp_path / "m.safetensors"
    matrix = np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32)
    save_file({f"w{k}": matrix + k for k in range(TENSORS)}, source)
    longest = children.seconds("quantize", str(source), f"{tmp_path}/whole")
    whole = qpass.load(tmp_path / "whole")
    left, number, lines = [], 0, b""
    while len(left) < times or (len(left) < 60 and not any(0 < n < TENSORS for n in left)):
        folder = tmp_path / f"killed{number}"
        children.kill(longest, "quantize", str(source), str(folder))
        journal = tmp_path / f"killed{number}.partial" / "done.jsonl"
        kept = lines[: lines.rfind(b"\n") + 1]
        lines = journal.read_bytes() if journal.exists() else b""
        assert folder.exists() or lines.startswith(kept)  # what was done is not done again
        left.append(lines.count(b"\n"))
        if folder.exists():
            assert_same(qpass.load(folder), whole)
            number, lines = number + 1, b""
        else:
            with contextlib.suppress(CheckpointError):  # whole, but for its name
                assert_same(qpass.load(tmp_path / f"killed{number}.partial"), whole)
    assert any(0 < count < TENSORS for count in left), left  # some were killed in the midst
