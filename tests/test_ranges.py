"""Range methods in whole programs: what is stored is what training computes, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.numerics import as_quantizer, quantize

RULES = {
    "absmax": "int4 absmax,0.9",
    "asym": "int4 g16 asym mse,4",
    "rms": "int4 rms,2.5",
    "absmean": "int4 g16 absmean,2.5",
    "percentile": "int4 percentile,98",
    "mse": "int4 g16 mse,6",
    "snr": "int4 snr",
    "pow2": "int4 b8x16 pow2,mse,6",
    "fp4": "fp4_e2m1 g16 mse,6",
}


ACTS = ("int8 asym percentile,90", "int8 tensor fixed,2", "int8 rms,2", "int8 absmax,0.8")


def model(params, x):
    """A chain of products: one weight of its own for each rule, all inside a scan too."""

    def layer(x, weights):
        for name in RULES:
            x = jnp.tanh(x @ weights[name])
        return x, None

    return jax.lax.scan(layer, x, params)[0]


@pytest.fixture(scope="module")
def given():
    keys = iter(jax.random.split(jax.random.key(0), len(RULES) + 1))
    params = {n: 0.1 * jax.random.t(next(keys), 4, (2, 40, 40)) for n in RULES}
    return params, jax.random.normal(next(keys), (3, 40))


def test_stored_weights_compute_what_float_ones_do(given):
    params, x = given
    rules = [qpass.Rule(path=name, weight=text) for name, text in RULES.items()]
    q = qpass.transform(model, rules)
    stored = q.quantize(params, x)
    run = jax.jit(q)
    np.testing.assert_array_equal(run(stored, x), run(params, x))
    assert [str(row.scheme) for row in q.plan(params, x).rows] == [
        f"{text} weight-only" for text in RULES.values()
    ]


def test_activations_have_ranges_too(given):
    """Each product is that of what both operands come back as."""
    weights, x = {n: w[0] for n, w in given[0].items()}, given[1]
    acts = dict(zip(weights, ACTS, strict=False))
    rules = [qpass.Rule(path=name, weight="int8", act=act) for name, act in acts.items()]
    q = qpass.transform(lambda params, x: {name: x @ params[name] for name in acts}, rules)
    got = jax.jit(q)(weights, x)
    back = jax.jit(
        lambda x, how, axis: quantize(x, how, (axis,)).dequantize(), static_argnums=(1, 2)
    )
    for name, act in acts.items():
        one = back(x, as_quantizer(act), 1)
        other = back(weights[name], as_quantizer("int8"), 0)
        wanted = np.asarray(one, np.float64) @ np.asarray(other, np.float64)
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-5)
        assert not np.allclose(got[name], x @ weights[name], rtol=1e-3, atol=1e-3)
