"""15. Axes of scales were looked up by name, and serving used others than training.

gemma (#479) looked an axis up by a name where its table has equations: nothing matched, and each
einsum silently got generic scales. `tests/test_scale_axes.py` has the axes of every equation; here
the axes that training uses are those of serving, and those of Qwix, which reads the equation too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from tests.peers.common import arrays
from tests.peers.qwix_side import assert_stored_alike
from tests.programs import rules

# Equations that gemma's table lacks or has wrong axes for; shapes of the activation and the weight.
EQUATIONS = {
    "btf,nfh->btnh": ((2, 3, 8), (2, 8, 4)),
    "btd,sndh->sbtnh": ((2, 3, 8), (3, 2, 8, 4)),
    "gecd,ekfd->kgecf": ((2, 3, 4, 8), (3, 2, 5, 8)),
    "btd,cfd->btcf": ((2, 3, 8), (2, 5, 8)),
    "buwnh,fnh->bnuwf": ((2, 3, 2, 2, 4), (5, 2, 4)),
}


def cases():
    return pytest.mark.parametrize(("equation", "shapes"), EQUATIONS.items(), ids=EQUATIONS)


@cases()
def test_training_and_serving_share_their_axes(equation, shapes):
    def fn(p, x):
        return jnp.einsum(equation, x, p["w"])

    params, x = arrays(*shapes[0], w=shapes[1])
    q = qpass.jit(fn, rules=rules("int4", "int8"))
    np.testing.assert_array_equal(q(params, x), q(q.quantize(params, x), x))


@cases()
def test_axes_are_those_of_qwix(qwix, equation, shapes):
    def fn(p, x):
        return jnp.einsum(equation, x, p["w"])

    params, x = arrays(*shapes[0], w=shapes[1])
    _, stored = qwix.served(fn, params, x, qwix.rules("int4", None))
    ours = qpass.transform(fn, rules("int4"), dialect="qwix").quantize(params, x)
    assert_stored_alike(stored["w"], ours["w"])
    assert jax.tree.leaves(stored)[1].shape == ours["w"].in_order().scale.shape
