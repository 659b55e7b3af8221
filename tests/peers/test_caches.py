"""1. Interception sees a function only when JAX traces it; a cached trace passes it by."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import lax

import qpass
from tests.peers.common import INT8, arrays, near, quantized_weights, same
from tests.peers.qwix_side import as_module
from tests.programs import rules

# As Qwix does: it sees `lax.dot_general`, and not `lax.dot`.
MATMUL = (((1,), (0,)), ((), ()))


@jax.jit
def shared_helper(x, w):
    return lax.dot_general(x, w, MATMUL)


def model(p, x):
    return shared_helper(x, p["a"]) + shared_helper(x, p["b"])


@pytest.fixture
def args():
    return arrays(4, 16, a=(16, 8), b=(16, 8))


def test_a_float_function_traced_first_is_still_quantized(args):
    exact = model(*args)
    near(qpass.transform(model, INT8)(*args), exact)


def test_qwix_leaves_a_function_float_that_was_traced_first(qwix, args):
    exact = model(*args)
    same(qwix.train(as_module(model, args[0])).apply({"params": args[0]}, args[1]), exact)
    jax.clear_caches()
    near(qwix.train(as_module(model, args[0])).apply({"params": args[0]}, args[1]), exact)


def test_a_float_call_after_a_quantized_one_stays_float(args):
    exact = np.asarray(model(*args))
    qpass.transform(model, INT8)(*args)
    jax.clear_caches()
    qpass.jit(model, rules=INT8)(*args)
    same(model(*args), exact)


def test_qwix_quantizes_a_float_call_after_a_quantized_one(qwix, args):
    exact = np.asarray(model(*args))
    jax.clear_caches()
    quantized = qwix.train(as_module(model, args[0])).apply({"params": args[0]}, args[1])
    near(quantized, exact)
    same(model(*args), quantized)


def test_an_int4_model_after_an_int8_model_sharing_a_jitted_helper(args):
    coarse, fine = rules("int4"), rules("int8")
    alone = qpass.transform(model, coarse)(*args)
    qpass.jit(model, rules=fine)(*args)
    same(qpass.transform(model, coarse)(*args), alone)


def test_qwix_runs_an_int4_model_in_int8_after_an_int8_model(qwix, args):
    module = as_module(model, args[0])
    fine = qwix.train(module).apply({"params": args[0]}, args[1])
    coarse = qwix.train(module, qwix.rules("int4", "int4"))
    same(coarse.apply({"params": args[0]}, args[1]), fine)


def test_a_rule_for_one_layer_leaves_the_other_through_a_shared_helper(args):
    only_a = rules("int8", path="a")
    assert quantized_weights(model, *args, given=only_a) == {"a"}
    qparams = qpass.transform(model, only_a).quantize(*args)
    assert isinstance(qparams["a"], qpass.QTensor)
    assert qparams["b"] is args[0]["b"]


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return shared_helper(x, self.param("w", nn.initializers.zeros, (16, 16)))


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Layer(name="a")(x), Layer(name="b")(x)


def test_a_rule_for_one_module_leaves_the_other_through_a_shared_helper():
    params, x = arrays(4, 16, w=(16, 16))
    rule = qpass.Rule(path="params/a/w", weight="int8", act="int8")
    a, b = qpass.transform(Two().apply, [rule])({"params": {"a": params, "b": params}}, x)
    near(a, x @ params["w"])
    np.testing.assert_allclose(b, x @ params["w"], rtol=1e-5, atol=1e-5)


def test_qwix_quantizes_a_module_that_no_rule_names_through_a_shared_helper(qwix):
    params, x = arrays(4, 16, w=(16, 16))
    both = {"params": {"a": params, "b": params}}
    for output in qwix.train(Two(), qwix.rules(path="a")).apply(both, x):
        near(output, x @ params["w"])
