"""3. Products written without the functions that were patched were never seen, or crashed."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.peers.common import INT8, arrays, near, quantized_weights, same
from tests.peers.qwix_side import as_module
from tests.programs import CASES, WAYS_TO_MULTIPLY

UNSEEN = ("lax.dot", "dot_general bound by hand")
CRASHES = {
    "einsum of three": (ValueError, "Unsupported einsum format"),
    "einsum, optimized": (TypeError, "unexpected keyword argument 'optimize'"),
    "multi_dot": (TypeError, "unexpected keyword argument 'optimize'"),
}


def convolved(p, x):
    return jnp.convolve((x @ p["w"])[0], p["v"][0, :3], mode="same")


def carried(p, x):
    def step(h, _):
        return jnp.tanh(jnp.dot(h, p["w"])), None

    return lax.scan(step, x, None, length=3)[0]


@pytest.fixture
def args():
    return arrays(4, 16, w=(16, 12), v=(12, 12))


@pytest.mark.parametrize("fn", WAYS_TO_MULTIPLY.values(), ids=WAYS_TO_MULTIPLY)
def test_is_seen_and_served(fn, args):
    params, x = args
    q = qpass.transform(fn, [qpass.Rule(path="w", weight="int8", act="int8")])
    qparams = q.quantize(params, x)
    assert isinstance(qparams["w"], qpass.QTensor)
    near(q(qparams, x), fn(params, x))


@pytest.mark.parametrize("way", UNSEEN)
def test_qwix_does_not_see(qwix, way, args):
    fn = WAYS_TO_MULTIPLY[way]
    same(qwix.trained(fn, *args), jax.jit(fn)(*args))


@pytest.mark.parametrize("way", CRASHES)
def test_qwix_crashes(qwix, way, args):
    error, text = CRASHES[way]
    with pytest.raises(error, match=text):
        qwix.trained(WAYS_TO_MULTIPLY[way], *args)


def test_code_outside_of_any_module():
    def fn(p, x):
        return jnp.tanh(CASES["matmul"].fn(p, x)) @ p["outside"]

    assert quantized_weights(fn, *arrays(2, 16, w=(16, 8), outside=(8, 4))) == {"w", "outside"}


def test_convolutions_do_not_crash_and_are_quantized(args):
    q = qpass.transform(convolved, INT8)
    reasons = {row.op: row.reason for row in q.plan(*args).rows}
    assert reasons["dot_general"] == ""
    assert reasons["conv_general_dilated"] == ""
    near(q(*args), convolved(*args))


def test_qwix_crashes_on_a_convolution_of_vectors(qwix, args):
    with pytest.raises(AssertionError):
        qwix.trained(convolved, *args)


@pytest.mark.parametrize(
    ("fn", "args"),
    [(CASES["scanned"].fn, CASES["scanned"].arguments()), (carried, arrays(4, 16, w=(16, 16)))],
    ids=["stacked", "shared"],
)
def test_comparison_inside_scan_leaks_no_tracer(fn, args):
    found = qpass.transform(fn, INT8).compare(*args)
    assert len(next(iter(found.layers.values()))) == 3


def test_qwix_leaks_tracers_when_it_calibrates_inside_scan(qwix):
    params, x = arrays(4, 16, w=(16, 16))
    static = qwix.rules(act_static_scale=True)
    model = qwix.train(as_module(carried, params), static)
    state = model.init(jax.random.key(0), x)["quant_stats"]
    with pytest.raises(jax.errors.UnexpectedTracerError):
        jax.tree.map(jnp.abs, state)
