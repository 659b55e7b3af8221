"""Learned ranges (LSQ): gradients beside the formulas of the paper in float64, QAT and PTQ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass.errors import CalibrationError, CallError, RuleError
from tests.programs import CASES, matmul

WEIGHT, ACT = "int4 g8 lsq", "int8 lsq static"


def learning(fn, weight=WEIGHT, act=None):
    return qpass.transform(fn, [qpass.Rule(weight=weight, act=act)])


def lsq(value, x, scale, slope, count, greatest):
    """Of one block: gradients of its elements and of the step, as the paper has them."""
    code = np.rint(x / scale)
    inside = (code >= -greatest - 1) & (code <= greatest)
    by_step = (value - np.where(inside, x, 0)) / np.abs(scale)
    return slope * inside, np.sum(slope * by_step) / np.sqrt(count * greatest)


def by_bounds(lo, hi, step, greatest):
    """The gradient of the step as that of the bound that gives it."""
    sides = {"lo": (-lo, -1), "hi": (hi, 1)}
    large, small = sorted(sides, key=lambda side: -sides[side][0])
    parts = {large: sides[large][0] / (greatest + 1), small: sides[small][0] / greatest}
    side = max(parts, key=parts.__getitem__)
    over = (greatest + 1) if side == large else greatest
    return [step * sides[s][1] / over if s == side else 0.0 for s in ("lo", "hi")]


def test_gradients_are_those_of_the_paper():
    """Of a product whose operands both have ranges that clip; groups of the weight apart."""
    params, x = CASES["matmul"].arguments()
    q, w = learning(matmul, act=ACT), np.asarray(params["w"], np.float64)
    ranges = {name: (0.6 * lo, 0.5 * hi) for name, (lo, hi) in q.init_ranges(params, x).items()}
    ranges["w/dot_general.0"] = (jnp.float32(-1.5), jnp.float32(1.1))
    run = jax.jit(lambda p, x, r: jnp.sum(jnp.sin(q.with_ranges(r)(p, x))))
    dp, dx, dr = jax.grad(run, argnums=(0, 1, 2))(params, x, ranges)

    stored = q.with_ranges(ranges).quantize(params, x)["w"]
    wq, scale = np.float64(stored.dequantize()), np.float64(stored.in_order().scale)
    step = -max(1.5 / 128, 1.1 / 127) * -1  # the lower side is the larger: a scale above 0
    x64 = np.asarray(x, np.float64)
    xq = step * np.clip(np.rint(x64 / step), -128, 127)
    dy = np.cos(xq @ wq)

    wanted_x, of_step = lsq(xq, x64, step, dy @ wq.T, 40, 127)
    np.testing.assert_allclose(dx, wanted_x, rtol=1e-4, atol=1e-5)
    assert np.any(wanted_x == 0)
    got = dr["w/dot_general.0"]
    np.testing.assert_allclose(got, by_bounds(-1.5, 1.1, of_step, 127), rtol=1e-4, atol=1e-6)

    dw = xq.T @ dy
    lo, hi = (np.float64(bound) for bound in ranges["w"])
    for g in range(5):
        for n in range(24):
            block = (slice(8 * g, 8 * g + 8), n)
            slope, of_step = lsq(wq[block], w[block], scale[g, n], dw[block], 8, 7)
            np.testing.assert_allclose(dp["w"][block], slope, rtol=1e-4, atol=1e-4)
            wanted = by_bounds(lo[g, n], hi[g, n], of_step, 7)
            np.testing.assert_allclose([dr["w"][k][g, n] for k in (0, 1)], wanted, atol=2e-5)


@pytest.mark.parametrize("weight", ["int8", "int4 g8", "fp8_e4m3", "int4 mse"])
@pytest.mark.parametrize("name", ["matmul", "scanned"])
def test_it_begins_with_the_range_of_the_weight_and_ends_in_what_is_stored(name, weight):
    """Without lsq, with it, and stored: the same bits; after a step, the last two."""
    params, x = CASES[name].arguments()
    q = learning(CASES[name].fn, f"{weight} lsq")
    ranges = q.init_ranges(params, x)
    run = jax.jit(lambda ranges, params: q.with_ranges(ranges)(params, x))
    plain = jax.jit(qpass.transform(CASES[name].fn, [qpass.Rule(weight=weight)]))
    np.testing.assert_array_equal(run(ranges, params), plain(params, x))
    slope = jax.grad(lambda ranges: jnp.sum(jnp.sin(run(ranges, params))))(ranges)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(slope))
    trained = jax.tree.map(lambda r, g: r * 0.9 - 0.001 * g, ranges, slope)
    stored = q.with_ranges(trained).quantize(params, x)
    np.testing.assert_array_equal(run(trained, params), jax.jit(q)(stored, x))
    assert np.any(np.asarray(run(trained, params)) != run(ranges, params))


def test_learning_finds_a_better_range():
    """Of weights with a few far outside, in 4 bits: the error falls below half."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 8))
    w[0] *= 12
    params = {"w": jnp.asarray(w, jnp.float32)}
    x = jnp.asarray(rng.standard_normal((32, 64)), jnp.float32).at[:, 0].set(0)
    q = learning(matmul, "int4 lsq")

    @jax.jit
    def step(ranges):
        def loss(ranges):
            return jnp.mean((q.with_ranges(ranges)(params, x) - matmul(params, x)) ** 2)

        value, slope = jax.value_and_grad(loss)(ranges)
        return jax.tree.map(lambda r, g: r - 0.2 * jnp.sign(g), ranges, slope), value

    ranges, values = q.init_ranges(params, x), []
    for _ in range(60):
        ranges, value = step(ranges)
        values.append(float(value))
    assert min(values) < 0.5 * values[0]


def test_activations_of_scanned_layers_learn_their_own():
    params, x = CASES["scanned"].arguments()
    q = learning(CASES["scanned"].fn, "int8", ACT)
    ranges = qpass.ranges(q.capture(params, x))
    slope = jax.grad(lambda r: jnp.sum(jnp.sin(q.with_ranges(r)(params, x))))(ranges)
    lo, hi = slope["w/dot_general.0"]
    assert lo.shape == hi.shape == (3,)
    assert np.all((np.asarray(lo) != 0) | (np.asarray(hi) != 0))
    given = q.with_ranges(ranges)
    np.testing.assert_array_equal(
        jax.jit(given)(params, x), jax.jit(given)(given.quantize(params, x), x)
    )


def test_quantizing_from_a_step_on_compiles_once():
    """The float loss until then: as the page on training writes it."""
    params, x = CASES["matmul"].arguments()
    q = qpass.transform(matmul, [qpass.Rule(weight="int4 g8")])

    @jax.jit
    def run(params, x, step):
        return lax.cond(step >= 3, q, matmul, params, x)

    np.testing.assert_array_equal(run(params, x, 2), jax.jit(matmul)(params, x))
    np.testing.assert_array_equal(run(params, x, 3), jax.jit(q)(params, x))
    assert run._cache_size() == 1


def test_ranges_that_do_not_fit_are_refused():
    params, x = CASES["chain"].arguments()
    q = learning(CASES["chain"].fn)
    ranges = q.init_ranges(params, x)
    for change, message in (
        ({}, r"q.with_ranges\(q.init_ranges\(params, \*args\)\): there are none for up, down"),
        ({**ranges, "up": ranges["down"]}, r"that of up has \[5, 24\], not \[3, 40\]"),
        ({**ranges, "upp": ranges["up"]}, "it has no site upp"),
    ):
        # Names of no site or weight are found when the program is called, as those of ranges are.
        for call in ("__call__", "quantize")[: 1 if "upp" in change else 2]:
            with pytest.raises(CalibrationError, match=message):
                getattr(q.with_ranges(change), call)(params, x)
    stored = q.with_ranges(ranges).quantize(params, x)
    with pytest.raises(CallError, match="find ranges of float weights; quantized are up, down"):
        q.init_ranges(stored, x)
    with pytest.raises(CallError, match="give rules with a learned range"):
        learning(matmul, "int8").init_ranges(*CASES["matmul"].arguments())
    both = learning(lambda p, x: x @ p["w"] @ p["w"].T)
    with pytest.raises(CalibrationError, match="quantizes its weight on every call"):
        both(*CASES["matmul"].arguments())


def test_quantizers_that_cannot_learn_are_refused():
    for text in ("int8 asym lsq", "fp8_e4m3 delayed lsq"):
        with pytest.raises(RuleError, match="Learn a range with one bound to both sides"):
            qpass.Rule(weight=text)
    with pytest.raises(RuleError, match="as 'int8 lsq static'"):
        qpass.Rule(weight="int8", act="int8 lsq")
    assert str(qpass.int4.grouped(32).learned()) == "int4 g32 lsq"
    assert qpass.Rule(weight="int4 g32 lsq").weight == qpass.int4.grouped(32).learned()
