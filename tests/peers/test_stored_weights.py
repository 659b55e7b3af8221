"""4. Stored weights were a TypeError in ordinary expressions, or silently float."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from tests.peers.common import INT8, arrays, near, quantized_weights, same
from tests.peers.qwix_side import is_stored
from tests.programs import CASES

READS = {
    "scaled": lambda w: w * 2,
    "plus zero": lambda w: w + 0,
    "summed": lambda w: w.sum(0) * w,
    "abs": jnp.abs,
    "squared": lambda w: w**2,
}
PRODUCTS = {
    "operator": lambda p, x: x @ p["w"],
    "tensordot": lambda p, x: jnp.tensordot(x, p["w"], 1),
    "sum beside": lambda p, x: jnp.dot(x, p["w"]) + p["w"].sum(),
}


def on_the_left(p, x):
    return jnp.einsum("kn,mk->mn", p["w"], x)


def stacked(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(jnp.dot(h, w)), None), x, p["w"])[0]


def ragged(p, x):
    return lax.ragged_dot(x, p["w"], jnp.array([1, 3]))


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_weight_in_any_expression(read):
    def fn(p, x):
        return x @ p["w"] + read(p["w"])[:4].sum()

    params, x = CASES["matmul"].arguments()
    q = qpass.transform(fn, INT8)
    assert "also read by" in q.plan(params, x).decisions[0].notes[0]
    near(q(q.quantize(params, x), x), fn(params, x))


@pytest.mark.parametrize("fn", PRODUCTS.values(), ids=PRODUCTS)
def test_qwix_cannot_serve_a_weight_in_such_an_expression(qwix, fn):
    with pytest.raises((TypeError, AttributeError), match="WithAux"):
        qwix.served(fn, *arrays(4, 16, w=(16, 12)))


@pytest.mark.parametrize("fn", PRODUCTS.values(), ids=PRODUCTS)
def test_such_expressions_are_served(fn):
    params, x = arrays(4, 16, w=(16, 12))
    q = qpass.transform(fn, INT8)
    near(q(q.quantize(params, x), x), fn(params, x))


def test_qwix_serves_the_operator_in_float_after_a_float_call(qwix):
    """What is a TypeError above: jax has the float trace of `@` by now."""
    params, x = arrays(4, 16, w=(16, 12))
    exact = jax.jit(PRODUCTS["operator"])(params, x)
    result, stored = qwix.served(PRODUCTS["operator"], params, x)
    same(result, exact)
    assert not is_stored(stored["w"])


@pytest.mark.parametrize("name", ["weight left", "scanned"])
def test_weights_on_the_left_and_in_stacks_are_quantized(name):
    case = CASES[name]
    args = case.arguments()
    assert quantized_weights(case.fn, *args) == {"w"}
    assert isinstance(qpass.transform(case.fn, INT8).quantize(*args)["w"], qpass.QTensor)


@pytest.mark.parametrize(
    ("fn", "shape"), [(on_the_left, (16, 12)), (stacked, (3, 16, 16)), (ragged, (2, 16, 12))]
)
def test_qwix_keeps_weights_float_on_the_left_in_stacks_and_of_experts(qwix, fn, shape):
    """Without a word, here weight-only."""
    params, x = arrays(4, 16, w=shape)
    result, stored = qwix.served(fn, params, x, qwix.rules(act=None))
    np.testing.assert_array_equal(result, jax.jit(fn)(params, x))
    assert not is_stored(stored["w"])
