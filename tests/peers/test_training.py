"""11. Rematerialization was switched off for fp8, because the amax history leaked tracers."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.peers.common import near
from tests.programs import CASES, rules


@pytest.mark.parametrize("given", ["fp8_e4m3", "int8"])
def test_remat_stays_and_leaks_nothing(given):
    """MaxText (#4040) leaves it out in its NNX decoder."""

    def fn(p, x):
        layer = jax.checkpoint(lambda h, w: (jnp.sin(h @ w), None))
        return lax.scan(layer, x, p["w"])[0].sum()

    params, x = jax.tree.map(lambda a: a * 0.15, CASES["scanned"].arguments())
    q = qpass.transform(fn, rules(given, given))
    text = str(jax.make_jaxpr(jax.grad(q))(params, x))
    assert "checkpoint" in text or "remat" in text
    with jax.checking_leaks():
        gradient = jax.jit(jax.grad(q))(params, x)
    near(gradient["w"], jax.grad(fn)(params, x)["w"], 0.15)
