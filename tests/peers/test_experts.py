"""10 and 19. Weights of experts: settings ignored, tensors skipped or corrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from tests.peers.common import INT8, arrays, near, same
from tests.programs import CASES, rules

IGNORED = {
    "tile size": {"tile_size": 4},
    "calibration": {"weight_calibration_method": "rms,2"},
}


def ragged(p, x):
    return lax.ragged_dot(x, p["experts"], jnp.array([1, 3]))


def mixture(p, x):
    """Fused experts [E, K, N] with a batch dimension, and a ragged product."""
    h = jnp.einsum("ebk,ekn->ebn", x, p["fused"])
    sizes = jnp.array([1, 3])
    return lax.ragged_dot(h.reshape(4, 12), p["experts"], sizes)


def test_experts_of_ragged_products_are_stored_and_served():
    """Qwix serves them in float."""
    params, x = arrays(2, 2, 16, fused=(2, 16, 12), experts=(2, 12, 8))
    q = qpass.transform(mixture, INT8)
    qparams = q.quantize(params, x)
    (row,) = [row for row in q.plan(params, x).rows if "ragged" in row.op]
    assert row.scheme == "int8 x int8"
    assert qparams["experts"].in_order().scale.shape == (2, 1, 8)
    near(q(qparams, x), mixture(params, x))


@pytest.mark.parametrize("given", ["int8 g4", "int8 absmax,0.95", "int8 tensor"])
def test_settings_for_ragged_products_count(given):
    """Qwix ignores them when it trains (below)."""
    args = arrays(4, 16, experts=(2, 16, 8))
    plain = qpass.transform(ragged, rules("int8", op="ragged_dot"))(*args)
    other = qpass.transform(ragged, rules(given, op="ragged_dot"))(*args)
    near(other, ragged(*args))
    assert not np.array_equal(plain, other)


@pytest.mark.parametrize("setting", IGNORED.values(), ids=IGNORED)
def test_qwix_ignores_settings_for_ragged_products(qwix, setting):
    args = arrays(4, 16, experts=(2, 16, 8))
    plain = qwix.trained(ragged, *args)
    near(plain, ragged(*args))
    jax.clear_caches()
    same(qwix.trained(ragged, *args, qwix.rules(**setting)), plain)


@pytest.mark.parametrize("given", ["int8", "int4 g8"])
def test_fused_experts_get_a_scale_for_each_expert_and_channel(given):
    """Experts of very different magnitude, so that a shared scale would lose the small one."""
    params, x = CASES["batched"].arguments()
    loud = jnp.array([1e-3, 1.0, 1e3])[:, None, None]
    params = {"w": params["w"] * loud}
    q = qpass.transform(CASES["batched"].fn, rules(given))
    stored = q.quantize(params, x)["w"]
    groups = 5 if "g8" in given else 1
    assert stored.in_order().scale.shape == (3, groups, 12)
    for one, other in zip(q(params, x), CASES["batched"].fn(params, x), strict=True):
        near(one, other, 0.15)


def test_fused_experts_have_the_codes_of_each_expert_alone():
    params, x = CASES["batched"].arguments()
    stored = qpass.transform(CASES["batched"].fn, INT8).quantize(params, x)["w"].in_order()
    one = qpass.transform(CASES["matmul"].fn, INT8)
    for index, w in enumerate(params["w"]):
        alone = one.quantize({"w": w}, x[0])["w"].in_order()
        np.testing.assert_array_equal(stored.codes[index], alone.codes)
        np.testing.assert_array_equal(stored.scale[index], alone.scale)
