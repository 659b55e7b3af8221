"""Products in torchao's dialects: its results, and training that equals serving exactly.

torchao's own tests of quantization-aware training, in kind: one of a per-token activation, and one
of a linear layer under a thousand seeds, before and after conversion.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.numerics import as_quantizer, quantize
from tests.numerics.dialect_oracle import torchao
from tests.numerics.oracle import widen
from tests.numerics.torchao_arrays import DTYPES, load

# seed -> groups of the recorded products
RECORDED = {"seed123": (32, 128), "seed124": (16,)}
# How far sums in another order may be, by norm.
BOUNDS = {"f32": 1e-6, "bf16": 0, "f16": 2e-5}
ACTS = {"linear_8da4w": "int8 asym torchao", "linear_intx": "int8 asym torchao_intx"}


def product_of_values(x, w, act, weight):
    """What torchao computes: the float product of the operands as they come back."""
    x, w = (quantize(a, as_quantizer(q), (1,)).dequantize() for a, q in ((x, act), (w, weight)))
    return jnp.matmul(x, w.T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recorded", ACTS)
def test_linear_layers_give_what_torchao_gives(recorded, dtype):
    """Its weights' scales are in their own dtype in both, those of activations in one."""
    given, wanted = load("linear_8da4w"), load(recorded)
    for seed, groups in RECORDED.items():
        x, w = (jnp.asarray(given[f"{seed}.{dtype}.{name}"]) for name in "xw")
        got = jax.jit(
            lambda x, w, groups=groups: {
                g: product_of_values(x, w, ACTS[recorded], f"int4 g{g} torchao_intx")
                for g in groups
            }
        )(x, w)
        for group, out in got.items():
            want = widen(wanted[f"{seed}.{dtype}.g{group}.out"])
            difference = np.linalg.norm(widen(out) - want) / np.linalg.norm(want)
            assert difference <= BOUNDS[dtype], (seed, group, difference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_of_linear_layers_are_those_of_torchao(dtype):
    arrays = load("linear_8da4w")
    for seed, groups in RECORDED.items():
        at = f"{seed}.{dtype}"
        act = quantize(jnp.asarray(arrays[f"{at}.x"]), as_quantizer(ACTS["linear_8da4w"]), (1,))
        for got, name in ((act.codes, "q"), (act.scale[:, 0], "scale"), (act.zero[:, 0], "zp")):
            np.testing.assert_array_equal(widen(got), widen(arrays[f"{at}.x_{name}"]))
        for group in groups:
            quantizer = as_quantizer(f"int4 g{group} torchao_intx")
            w = quantize(jnp.asarray(arrays[f"{at}.w"]), quantizer, (1,))
            for got, name in ((w.codes, "q"), (w.scale, "scale")):
                np.testing.assert_array_equal(widen(got), widen(arrays[f"{at}.g{group}.w_{name}"]))


@pytest.mark.parametrize("dialect", ["torchao", "torchao_intx"])
def test_an_activation_in_training_is_that_of_serving(dialect):
    """In one program; with codes handed from one to the next; in numpy: no difference at all."""
    quantizer = as_quantizer(f"int8 asym {dialect}")
    x = jax.random.normal(jax.random.key(0), (1, 235, 2048))
    for dtype in DTYPES.values():
        rows = x.astype(dtype)
        trained = jax.jit(lambda x: quantize(x, quantizer, (2,)).dequantize())(rows)
        stored = jax.jit(lambda x: quantize(x, quantizer, (2,)))(rows)
        served = jax.jit(lambda q: q.dequantize())(stored)
        np.testing.assert_allclose(widen(trained), widen(served), atol=0, rtol=0)
        scale, zero, codes = torchao(rows[0], (1, 2048), "int8 asym", dialect == "torchao_intx")
        values = np.asarray((codes - zero) * scale, np.float32).astype(np.dtype(dtype))
        np.testing.assert_allclose(widen(trained[0]), widen(values), atol=0, rtol=0)


SEEDS, AT_ONCE = 1000, 100
RULES = [qpass.Rule(weight="int4 g16 torchao_intx", act="int8 asym torchao")]


def layers(params, x):
    """As many linear layers as there are weights, each with its own input."""
    return jax.lax.map(lambda pair: pair[1] @ pair[0].T, (params, x))


def linear(params, x):
    return x @ params.T


def drawn(seeds, dtype):
    """The weight of a layer from 512 to 256 features, and an input, for each seed."""

    def draw(seed):
        w, x = jax.random.split(jax.random.key(seed))
        return (
            jax.random.uniform(w, (256, 512), dtype, -(512**-0.5), 512**-0.5),
            jax.random.normal(x, (1, 512), dtype),
        )

    return jax.vmap(draw)(seeds)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_seed_tells_training_from_serving(dtype):
    """Float parameters and stored ones, for a thousand layers in ten programs of the same shape."""
    q = qpass.transform(layers, RULES)
    run, draw = jax.jit(q), jax.jit(drawn, static_argnums=1)
    for first in range(0, SEEDS, AT_ONCE):
        params, x = draw(jnp.arange(first, first + AT_ONCE), DTYPES[dtype])
        stored = q.quantize(params, x)
        assert isinstance(stored, qpass.QTensor)
        trained, served = run(params, x), run(stored, x)
        assert (trained != layers(params, x)).any() or first
        np.testing.assert_array_equal(widen(trained), widen(served))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_together_are_layers_alone(dtype):
    together = jax.jit(qpass.transform(layers, RULES))
    alone = qpass.transform(linear, RULES)
    run = jax.jit(alone)
    params, x = jax.jit(drawn, static_argnums=1)(jnp.arange(AT_ONCE), DTYPES[dtype])
    outs = together(params, x)
    for seed in (0, 1, 57):
        stored = alone.quantize(params[seed], x[seed])
        np.testing.assert_array_equal(widen(run(params[seed], x[seed])), widen(outs[seed]))
        np.testing.assert_array_equal(widen(run(stored, x[seed])), widen(outs[seed]))


def integer_product(x, w, group):
    """Codes of both operands, summed up in integers, times their scales: float64, all numpy."""
    scale, zero, codes = map(np.float64, torchao(x, (1, x.shape[1]), "int8 asym"))
    w_scale, _, w_codes = map(np.float64, torchao(w, (1, group), "int4", keeps=True))
    in_groups = (part.reshape(len(part), -1, group) for part in (codes - zero, w_codes))
    return scale * np.einsum("mgk,ngk,ng->mn", *in_groups, w_scale, optimize=True)


def assert_rounded_once(got, want):
    """The exact product, but for sums over groups in float32, rounded to the result's dtype."""
    half_step = float(jnp.finfo(got.dtype).eps) / 2
    bound = half_step * np.abs(want) + 1e-6 * np.abs(want).max()
    assert np.all(np.abs(np.float64(widen(got)) - want) <= bound)


def served(w, x, group):
    rule = qpass.Rule(weight=f"int4 g{group} torchao_intx", act="int8 asym torchao")
    return jax.jit(qpass.transform(linear, [rule]))(w, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_integer_sums_are_exact(dtype):
    """What an integer kernel computes, in float64 from torchao's codes; and that numpy agrees."""
    arrays = load("linear_8da4w")
    for seed, groups in RECORDED.items():
        x, w = (jnp.asarray(arrays[f"{seed}.{dtype}.{name}"]) for name in "xw")
        for group in groups:
            want = arrays[f"{seed}.{dtype}.g{group}.ref64_int"]
            np.testing.assert_allclose(integer_product(x, w, group), want, rtol=1e-12, atol=1e-12)
            assert_rounded_once(served(w, x, group), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_integer_sums_are_exact_for_twenty_seeds(dtype):
    params, x = drawn(jnp.arange(20), DTYPES[dtype])
    out = jax.jit(qpass.transform(layers, RULES))(params, x)
    for got, w, rows in zip(out, params, x, strict=True):
        assert_rounded_once(got, integer_product(rows, w, 16))
