"""Two processes of JAX's own engine give what one process gives."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as checkpoint
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.devices import two

ENV = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tmp_path_factory.mktemp("saved") / "tree"


@pytest.fixture(scope="module")
def both(saved):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = (sys.executable, "-m", "tests.devices.two")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [
        subprocess.Popen((*command, rank, port, str(saved)), env=os.environ | ENV, **pipes)
        for rank in "01"
    ]
    try:
        outs = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], [err[-2000:] for _, err in outs]
    return [json.loads(out.splitlines()[-1]) for out, _ in outs]


@pytest.fixture(scope="module")
def wanted():
    params, x = two.arrays()
    given = two.everything(jax.tree.map(jax.numpy.asarray, params), jax.numpy.asarray(x))
    return jax.tree.map(np.asarray, given)


def test_codes_are_spread_over_processes(both):
    assert all(out["spread"] == [True, True] for out in both)


@pytest.mark.parametrize("part", ["codes", "scales", "ranges"])
def test_codes_and_ranges_are_those_of_one_process(both, wanted, part):
    for out in both:
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(b, a), wanted[part], _like(out, wanted, part)
        )


def test_what_two_processes_saved_they_load(both, wanted):
    for out in both:
        assert out["placed"] == [True, True]
        loaded = _like({"codes": out["loaded"]}, wanted, "codes")
        jax.tree.map(np.testing.assert_array_equal, loaded, wanted["codes"])


@pytest.mark.parametrize("devices", [1, 4])
def test_what_two_processes_saved_loads_on_any_number_of_devices(both, saved, wanted, devices):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("d",))
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, _spec(leaf, devices))
        ),
        wanted["stored"],
    )
    with checkpoint.StandardCheckpointer() as files:
        loaded = files.restore(saved, like)
    jax.tree.map(np.testing.assert_array_equal, loaded, wanted["stored"])
    codes = loaded["down"].codes
    assert codes.sharding.num_devices == devices


def _spec(leaf, devices):
    return P("d") if leaf.shape[0] % devices == 0 else P()


@pytest.mark.parametrize("part", ["run", "trained"])
def test_results_are_those_of_one_process(both, wanted, part):
    for out in both:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-6, atol=2e-6),
            wanted[part],
            _like(out, wanted, part),
        )


def _like(out, wanted, part):
    def read(like, value):
        if isinstance(like, dict):
            return {k: read(like[k], value[k]) for k in like}
        return np.asarray(value, like.dtype)

    return read(wanted[part], out[part])
