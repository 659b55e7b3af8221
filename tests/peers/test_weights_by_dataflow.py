"""5. Weights were recognized by their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.peers.common import INT8, arrays, near, quantized_weights, same
from tests.peers.qwix_side import as_module
from tests.programs import CASES, rules


def product(p, x):
    return jnp.dot(x, p["w"])


def of_a_sum(p, x):
    return jnp.dot(x, p["a"] + p["b"])


def transposed(p, x):
    return jnp.einsum("mk,kn->mn", x, p["w"].T)


def test_batch_and_input_and_output_of_one_size():
    (decision,) = qpass.transform(product, INT8).plan(*arrays(8, 8, w=(8, 8))).decisions
    assert (decision.site.weight, decision.site.weight_path) == (1, "w")


def test_qwix_takes_a_square_activation_for_the_weight(qwix):
    with pytest.raises(AssertionError, match="lhs and rhs cannot be both weights"):
        qwix.trained(product, *arrays(8, 8, w=(8, 8)))


def test_two_parameters_of_one_shape():
    def fn(p, x):
        return x @ p["a"] + x @ p["b"]

    assert quantized_weights(fn, *arrays(4, 16, a=(16, 8), b=(16, 8))) == {"a", "b"}


def test_a_product_with_a_sum_of_parameters_says_why_it_is_float():
    q = qpass.transform(of_a_sum, INT8, strict=False)
    with pytest.warns(UserWarning, match="rule 0"):
        (decision,) = q.plan(*arrays(4, 16, a=(16, 8), b=(16, 8))).decisions
    assert decision.action is None
    assert "from a and b" in decision.notes[0]


def test_qwix_keeps_a_product_with_a_sum_of_two_parameters_float(qwix):
    args = arrays(4, 16, a=(16, 8), b=(16, 8))
    same(qwix.trained(of_a_sum, *args, qwix.rules(act=None)), jax.jit(of_a_sum)(*args))


def test_qwix_fails_at_a_sum_where_a_third_parameter_has_the_shape(qwix):
    with pytest.raises(ValueError, match="Multiple candidate params"):
        qwix.trained(of_a_sum, *arrays(4, 16, a=(16, 8), b=(16, 8), c=(16, 8)))


def test_weight_only_on_a_transposed_weight_is_the_same_eagerly_and_under_jit():
    case = CASES["transposed"]
    params, x = case.arguments()
    q = qpass.transform(case.fn, rules("int8"))
    assert isinstance(q.quantize(params, x)["w"], qpass.QTensor)
    np.testing.assert_allclose(q(params, x), jax.jit(q)(params, x), rtol=1e-6, atol=1e-6)
    near(q(params, x), case.fn(params, x))


def test_qwix_sees_a_transposed_weight_under_jit_only(qwix):
    params, x = arrays(4, 16, w=(12, 16))
    exact, weight_only = transposed(params, x), qwix.rules(act=None)
    model = qwix.train(as_module(transposed, params), weight_only)
    same(model.apply({"params": params}, x), exact)
    jax.clear_caches()
    near(jax.jit(model.apply)({"params": params}, x), exact)
