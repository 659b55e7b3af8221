"""Methods that choose factors: against numbers computed here, and by what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from tests.folds import programs as p

X = p.inputs(64)


def read(params, x):
    """What the products of `gain` read, in float64."""
    x = np.asarray(x, np.float64)
    rms = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return rms * np.asarray(params["gain"], np.float64)


def with_outliers():
    params = p.parameters("gain", "q", "k")
    return params | {"gain": params["gain"].at[1].mul(100.0)}


def error_of(rules, params, x):
    q = qpass.transform(p.gain, rules)
    return q.compare(params, x).result


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
def test_smoothquant_is_its_formula(alpha):
    params = with_outliers()
    folds = qpass.transform(p.gain, qpass.Rule(weight="int8")).folds(params, X)
    seen = np.abs(read(params, X)).max(0)
    got = qpass.folds.smoothquant(folds, params, dict.fromkeys(folds[0].sites, seen), alpha)
    largest = np.maximum(*(np.abs(np.asarray(params[n])).max(1) for n in "qk"))
    s = seen**alpha / largest ** (1 - alpha)
    np.testing.assert_allclose(got["gain"], np.asarray(params["gain"]) / s, rtol=1e-5)
    np.testing.assert_allclose(got["q"], np.asarray(params["q"]) * s[:, None], rtol=1e-5)


def test_smoothquant_helps_where_activations_have_outliers():
    params, rules = with_outliers(), qpass.Rule(weight="int8", act="int8 tensor")
    q = qpass.transform(p.gain, rules)
    stats = q.calibrate(params, [X], gather=("absmax",))
    smooth = qpass.folds.smoothquant(q.folds(params, X), params, stats)
    assert error_of(rules, smooth, X) < 0.5 * error_of(rules, params, X)


def test_awq_keeps_the_power_with_the_smallest_error():
    params, rules = with_outliers(), qpass.Rule(weight="int4 tensor")
    q = qpass.transform(p.gain, rules)
    folds = q.folds(params, X)
    square = dict.fromkeys(folds[0].sites, (read(params, X) ** 2).mean(0))
    scaled = qpass.folds.awq(q, folds, params, square, X, alphas=(0.0, 0.25, 0.5))
    tried = [
        qpass.folds.awq(q, folds, params, square, X, alphas=(alpha,)) for alpha in (0.0, 0.25, 0.5)
    ]

    def loss(params):
        return sum(e.relative_error**2 for e in q.compare(params, X).sites)

    losses = [loss(t) for t in tried]
    np.testing.assert_allclose(loss(scaled), min(losses), rtol=1e-4)
    assert min(losses) < 0.7 * losses[0]


def test_awq_chooses_for_each_layer():
    """Of two layers, only the second has an outlier; the first keeps its weights as they are."""
    params = p.parameters(**p.STACKED)
    q = qpass.transform(p.scanned, qpass.Rule(weight="int8"))
    folds = q.folds(params, X)
    square = {s: np.ones(f.shape, np.float32) for f in folds for s in f.sites}
    square[folds[0].sites[0]][1, 0] = 1e6
    scaled = qpass.folds.awq(q, folds, params, square, X, alphas=(0.0, 0.5))
    same = [np.array_equal(a, b) for a, b in zip(scaled["gain"], params["gain"], strict=True)]
    assert same[0]
    assert same[2]


def test_equalization_gives_channels_one_range_on_both_sides():
    params = p.parameters("up", "down", bias=(p.F,))
    params["up"] = params["up"] * 10.0 ** jnp.linspace(-2, 2, p.F)
    folds = qpass.transform(p.relu, qpass.Rule(weight="int8")).folds(params, X)
    even = qpass.folds.equalize(folds, params)
    before, after = np.abs(even["up"]).max(0), np.abs(even["down"]).max(1)
    np.testing.assert_allclose(before, after, rtol=1e-5)
    np.testing.assert_allclose(p.relu(even, X), p.relu(params, X), rtol=2e-5, atol=1e-4)


def test_statistics_that_do_not_fit():
    params = with_outliers()
    folds = qpass.transform(p.gain, qpass.Rule(weight="int8")).folds(params, X)
    with pytest.raises(qpass.FoldError, match="there are none"):
        qpass.folds.smoothquant(folds, params, {})
    with pytest.raises(qpass.FoldError, match=r"give statistics \(6,\)"):
        qpass.folds.smoothquant(folds, params, {folds[0].sites[0]: np.ones(5)})


def biased(p, x):
    return jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"]


def test_bias_correction_takes_off_the_mean_error():
    """Against the means computed here in float64, of the values that the codes stand for."""
    params = p.parameters("up", "down", bias=(p.F,))
    x = X + 3.0  # a mean error needs a mean
    q = qpass.transform(biased, qpass.Rule(weight="int3"))
    fixed = q.correct_biases(params, x)
    kept = np.asarray(q.quantize(params, x)["up"].dequantize(), np.float64)
    error = np.asarray(x, np.float64) @ (np.asarray(params["up"], np.float64) - kept)
    wanted = np.asarray(params["bias"]) + error.mean(0)
    np.testing.assert_allclose(fixed["bias"], wanted, rtol=1e-4, atol=1e-5)
    assert fixed["up"] is params["up"]


@pytest.mark.parametrize("act", [None, "int8 tensor"])
def test_bias_of_a_convolution_takes_off_its_mean_error(act):
    """Features first, so that channels of the result are not its last axis."""
    axes = ("NCHW", "HWIO", "NCHW")

    def fn(p, x):
        y = lax.conv_general_dilated(x, p["kernel"], (1, 1), "VALID", dimension_numbers=axes)
        return y + p["bias"][:, None, None]

    keys = jax.random.split(jax.random.key(0), 2)
    params = {"kernel": jax.random.normal(keys[0], (3, 3, 4, 5)), "bias": jnp.arange(5.0)}
    x = 3 + jax.random.normal(keys[1], (2, 4, 8, 7))
    q = qpass.transform(fn, qpass.Rule(weight="int3 channel", act=act))
    error = lambda p: np.mean(fn(params, x) - q(p, x), (0, 2, 3))  # noqa: E731
    fixed = q.correct_biases(params, x)
    assert np.abs(error(params)).max() > 0.1
    np.testing.assert_allclose(error(fixed), 0, atol=1e-4)
    assert fixed["kernel"] is params["kernel"]


@pytest.mark.parametrize("program", ["stacked", "shared"])
def test_biases_of_layers(program):
    """In a scan each layer has its own; one that two products share is left as it is."""

    def stacked(p, x):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w["w"] + w["bias"]), None), x, p)[0]

    def shared(p, x):
        return jnp.tanh(x @ p["w"][0] + p["bias"]) @ p["w"][1] + p["bias"]

    params = p.parameters(w=(2, p.D, p.D), bias=(2, p.D) if program == "stacked" else (p.D,))
    q = qpass.transform({"stacked": stacked, "shared": shared}[program], qpass.Rule(weight="int3"))
    if program == "shared":
        with pytest.raises(qpass.FoldError, match="adds some"):
            q.correct_biases(params, X)
        return
    fixed = q.correct_biases(params, X + 3.0)
    moved = np.abs(fixed["bias"] - params["bias"]).max(1)
    assert np.all(moved > 1e-3)
