"""9. Products inside the body of a Pallas kernel were rewritten."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

import qpass
from tests.peers.common import INT8, arrays, quantized_weights, same


def inside(p, x):
    def kernel(x_ref, w_ref, out_ref):
        out_ref[...] = jnp.dot(x_ref[...], w_ref[...])

    out = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    return pl.pallas_call(kernel, out_shape=out, interpret=True)(x, p["inside"])


def test_products_inside_a_kernel_are_left_alone():
    """In MaxText (#5114) interception reached into kernels; Qwix 0.1.8 keeps out of them."""

    def fn(p, x):
        return inside(p, x) @ p["w"]

    params, x = {"inside": jnp.ones((8, 8)), "w": jnp.ones((8, 8))}, jnp.ones((8, 8))
    q = qpass.transform(fn, INT8)
    opaque = [row for row in q.plan(params, x).rows if row.op == "pallas_call"]
    assert len(opaque) == 1
    assert "opaque" in opaque[0].reason
    assert quantized_weights(fn, params, x) == {"w"}
    np.testing.assert_allclose(q(params, x), fn(params, x), rtol=1e-5)


def test_qwix_leaves_them_alone_too_and_says_nothing(qwix):
    params, x = arrays(8, 16, inside=(16, 8))
    same(qwix.trained(inside, params, x), jax.jit(inside)(params, x))
