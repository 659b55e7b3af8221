"""Results depend on nothing that was traced before: not on order, helpers, caches or threads."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.programs import rules


@jax.jit
def dense(x, w):
    """Shared by both models; jax keeps its trace."""
    return jnp.tanh(x @ w)


def first_model(p, x):
    return dense(dense(x, p["a"]), p["b"])


def second_model(p, x):
    return dense(x, p["b"]) + dense(x, p["a"])


def arguments():
    rng = np.random.default_rng(0)
    a, b, x = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((16, 16),) * 3)
    return {"a": a, "b": b}, x


VARIANTS = {
    "float": lambda fn: fn,
    "int8": lambda fn: qpass.transform(fn, rules("int8", "int8")),
    "int4": lambda fn: qpass.transform(fn, rules(qpass.int4.grouped(4))),
    "only a": lambda fn: qpass.transform(fn, rules("int8", path="a")),
    "stored": lambda fn: served(fn),
}


def served(fn):
    q = qpass.transform(fn, rules("fp8_e4m3", "int8"))

    def run(p, x):
        return q(q.quantize(p, x), x)

    return run


def run(name, fn):
    params, x = arguments()
    return np.asarray(VARIANTS[name](fn)(params, x))


def digest(array):
    return np.asarray(array, np.float32).tobytes().hex()


FRESH = """
import sys
from tests import test_order as t
print(t.digest(t.run(sys.argv[1], t.first_model)))
"""


@pytest.fixture(scope="module")
def fresh():
    """What each variant gives in a process of its own."""
    env = {"PYTHONPATH": ":".join(sys.path), "JAX_PLATFORMS": "cpu"}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", FRESH, name], stdout=subprocess.PIPE, text=True, env=env
        )
        for name in VARIANTS
    }
    found = {name: process.communicate()[0].strip() for name, process in started.items()}
    assert all(process.returncode == 0 for process in started.values())
    return found


def test_any_order_in_one_process_gives_what_fresh_processes_give(fresh):
    orders = [list(VARIANTS), list(reversed(VARIANTS)), ["float", "int8", "float", "int4"]]
    for name in itertools.chain(*orders):
        run(name, second_model)
        assert digest(run(name, first_model)) == fresh[name], name


def test_threads(fresh):
    names = list(VARIANTS) * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: digest(run(name, first_model)), names))
    assert found == [fresh[name] for name in names]


def test_one_transformed_function_in_many_threads():
    params, x = arguments()
    q = qpass.transform(first_model, rules("int8", "int8"))
    wanted = digest(qpass.transform(first_model, rules("int8", "int8"))(params, x))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: digest(q(params, x)), range(24)))
    assert found == {wanted}


def test_the_variants_differ(fresh):
    """Else the tests above could not fail."""
    assert len(set(fresh.values())) == len(VARIANTS)
