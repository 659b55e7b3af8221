"""What counts as clipped, for every type, against the values that the type has."""

import jax.numpy as jnp
import numpy as np
import pytest

from qpass.numerics import QTYPES, as_quantizer, quantize
from qpass.numerics.clipping import half_steps, in_range
from tests.numerics.grids import values_of
from tests.numerics.oracle import middle

X = np.random.default_rng(0).standard_normal((4, 48)).astype(np.float32)
EVERY = [
    *(qtype.name for qtype in QTYPES),
    *(f"{qtype.name} asym" for qtype in QTYPES if qtype.kind == "int"),
]


def found(x, text, **options):
    by = as_quantizer(text)
    q = quantize(jnp.asarray(x), by, (1,), **options)
    return np.asarray(in_range(jnp.asarray(x), q, by)), q.plain()


@pytest.mark.parametrize("text", EVERY)
def test_the_mask_is_where_the_outermost_values_are_within_half_a_step(text):
    """The range covers half of what is there; the rest is beyond."""
    bounds = jnp.full((1, 1), -1.0), jnp.full((1, 1), 1.0)
    name, *words = text.split()
    got, q = found(X, " ".join([name, "tensor", *words]), bounds=bounds)
    scale, zero = (np.float64(a) for a in (q.scale, middle(q) if q.zero is None else q.zero))
    values = values_of(q.qtype)
    y = X / scale + zero
    low, high = 1.5 * values[0] - 0.5 * values[1], 1.5 * values[-1] - 0.5 * values[-2]
    assert min(np.abs(y - low).min(), np.abs(y - high).min()) > 1e-5
    np.testing.assert_array_equal(got, (low <= y) & (y <= high))
    assert 0.3 < got.mean() < 0.98


@pytest.mark.parametrize("text", EVERY)
def test_a_range_that_holds_everything_clips_nothing(text):
    """The quotient of the largest magnitude may round to just beyond the greatest code."""
    name, *words = text.split()
    for granularity in ("channel", "tensor", "g16", "b2x16"):
        got, _ = found(X, " ".join([name, granularity, *words]))
        assert got.all()


def test_clipped_values_are_those_that_an_unbounded_type_would_round_further_out():
    for qtype in QTYPES:
        values = values_of(qtype)
        below, above = half_steps(qtype)
        if qtype.kind != "int":
            assert (below, above) == ((values[1] - values[0]) / 2, (values[-1] - values[-2]) / 2)


def test_the_mask_does_not_depend_on_the_order_of_codes_or_on_the_rounding():
    by = as_quantizer("int4 g16 absmax,0.5")
    x = jnp.asarray(X)
    plain = in_range(x, quantize(x, by, (1,)), by)
    moved = in_range(x.T, quantize(x.T, by, (0,), pack=True), by.stochastic())
    np.testing.assert_array_equal(moved.T, plain)
    assert not plain.all()


def test_what_is_not_finite_is_out_of_range():
    x = jnp.asarray([[1.0, jnp.inf, -jnp.inf, jnp.nan]])
    for text in ("int8", "int8 asym", "fp8_e4m3", "nf4"):
        np.testing.assert_array_equal(found(x, text)[0], [[True, False, False, False]])


def test_one_pair_of_bounds_is_the_range_of_every_block():
    """Where blocks are cut, too: one scale for each, all alike."""
    bounds = jnp.float32(-3), jnp.float32(3)
    for granularity in ("channel", "tensor", "g16", "b2x16"):
        _, q = found(X, f"int8 {granularity}", bounds=bounds)
        q.check()
        whole = quantize(jnp.asarray(X), as_quantizer("int8 tensor"), (1,), bounds=bounds)
        np.testing.assert_array_equal(q.dequantize(), whole.dequantize())
