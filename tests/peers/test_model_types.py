"""2. Only modules of one framework were accepted."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.peers.common import INT8, arrays, same
from tests.programs import CASES


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    """As in Equinox: the model itself is the tree of its arrays."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return self.weight @ x + self.bias


class Model:
    def __call__(self, p, x):
        return x @ p["w"]

    apply = __call__


def test_plain_functions_partials_methods_and_callable_objects():
    params, x = CASES["matmul"].arguments()
    wanted = qpass.transform(CASES["matmul"].fn, INT8)(params, x)
    partial = functools.partial(lambda scale, p, x: x @ p["w"] * scale, 1.0)
    for fn in (Model(), Model().apply, partial, lambda p, x: x @ p["w"]):
        same(qpass.transform(fn, INT8)(params, x), wanted)


def test_a_pytree_module_as_the_parameters():
    params, x = arrays(16, w=(8, 16))
    model = Linear(params["w"], jnp.zeros(8))
    q = qpass.transform(lambda m, x: m(x), INT8)
    stored = q.quantize(model, x)
    assert isinstance(stored.weight, qpass.QTensor)
    np.testing.assert_array_equal(q(stored, x), q(model, x))


def test_qwix_refuses_whatever_is_no_flax_module(qwix):
    model = Linear(jnp.zeros((8, 16)), jnp.zeros(8))
    for given in (Model().apply, Model(), model, lambda p, x: x @ p["w"]):
        with pytest.raises(ValueError, match="Unsupported model type"):
            qwix.train(given)
