"""Straight-through gradients with a mask: none reaches what is clipped.

Two oracles, both in float64. The closed form: the gradients of the float product of the values that
the forward used, times the mask. And finite differences of the smoothed function: the mean of
stochastic rounding, which is linear between neighbouring values and constant beyond the outermost.
Scales are constants in both.
"""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass.numerics import as_quantizer, quantize
from tests.numerics.grids import values_of
from tests.numerics.oracle import middle
from tests.ops.test_values import sample
from tests.programs import rules

# With half of a block's largest magnitude as its range, a third of normal numbers is clipped.
CLIPPED = (
    "int8 absmax,0.5",
    "int4 g16 absmax,0.5",
    "int8 asym absmax,0.5",
    "int4 g16 asym absmax,0.5",
    "fp8_e4m3 absmax,0.5",
    "fp4_e2m1 absmax,0.5",
    "nf4 g16 absmax,0.5",
)
every_type = pytest.mark.parametrize("text", CLIPPED)


def weighted(p, x, g):
    """A loss whose cotangent at the product is ``g``."""
    return jnp.sum((x @ p["w"]) * g)


def operands():
    x, w, g = sample(3, 40), sample(40, 12, seed=1), sample(3, 12, seed=2)
    return {"w": jnp.asarray(w)}, jnp.asarray(x), jnp.asarray(g)


@dataclass(frozen=True)
class Grid:
    """The values that each element of an array can take where it is quantized.

    Attributes:
        values: what codes of the type stand for, in order.
        scale: float64, one for each element.
        zero: zero points alike; 0 for none.
        seen: the values that came out.
    """

    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    seen: np.ndarray

    def quotients(self, x):
        return np.float64(x) / self.scale + self.zero

    def mask(self, x):
        """Where no clip is needed: the outermost steps reach half a step further."""
        v, y = self.values, self.quotients(x)
        low, high = (v[0] - (v[1] - v[0]) / 2, v[-1] + (v[-1] - v[-2]) / 2)
        assert min(np.abs(y - low).min(), np.abs(y - high).min()) > 1e-4
        return (low <= y) & (y <= high)

    def outermost(self, x):
        """Where the mask reaches further than the smoothed function slopes."""
        y = self.quotients(x)
        return self.mask(x) & ((y < self.values[0]) | (y > self.values[-1]))

    def smoothed(self, x):
        """The mean of stochastic rounding."""
        mean = np.interp(self.quotients(x), self.values, self.values)
        return (mean - self.zero) * self.scale


def grid(x, text):
    """The grid of an array `[rows, K]` that is quantized along K."""
    x = jnp.asarray(x)
    q = quantize(x, as_quantizer(text), (1,)).plain()
    group = max((size for _, size in q.groups), default=x.shape[1])

    def full(part):
        return np.repeat(np.float64(part), group, axis=1)[:, : x.shape[1]]

    zero = np.full(x.shape, middle(q)) if q.zero is None else full(q.zero)
    return Grid(values_of(q.qtype), full(q.scale), zero, np.float64(q.dequantize()))


@cache
def gradients(text):
    params, x, g = operands()
    q = qpass.transform(weighted, rules(text, text))
    dp, dx = jax.jit(jax.grad(q, argnums=(0, 1)))(params, x, g)
    return dp["w"], dx


def grids(text):
    params, x, _ = operands()
    return grid(params["w"].T, text), grid(x, text)


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@every_type
def test_closed_form(text):
    params, x, g = operands()
    w_grid, x_grid = grids(text)
    w_mask, x_mask = w_grid.mask(params["w"].T).T, x_grid.mask(x)
    assert 0.02 < w_mask.mean() < 0.98
    assert 0.02 < x_mask.mean() < 0.98
    dw, dx = gradients(f"{text} masked")
    close(dw, w_mask * (x_grid.seen.T @ np.float64(g)))
    close(dx, x_mask * (np.float64(g) @ w_grid.seen))


@every_type
def test_without_a_mask_gradients_reach_what_is_clipped(text):
    _, _, g = operands()
    w_grid, x_grid = grids(text)
    dw, dx = gradients(text)
    close(dw, x_grid.seen.T @ np.float64(g))
    close(dx, np.float64(g) @ w_grid.seen)


@every_type
def test_finite_differences_of_the_smoothed_function(text):
    """The function is linear between two values, so differences are exact within one step."""
    params, x, g = operands()
    w, x, g = (np.float64(a) for a in (params["w"].T, x, g))
    w_grid, x_grid = grids(text)
    dw, dx = gradients(f"{text} masked")
    w_slope, x_slope = slopes(w_grid, w), slopes(x_grid, x)
    inside = ~w_grid.outermost(w), ~x_grid.outermost(x)
    assert min(part.mean() for part in inside) > 0.8
    close(np.where(inside[0], dw.T, 0), np.where(inside[0], w_slope * (g.T @ x_grid.seen), 0))
    close(np.where(inside[1], dx, 0), np.where(inside[1], x_slope * (g @ w_grid.seen), 0))


def slopes(on, x):
    """Central differences of the smoothed function, elementwise."""
    step = 1e-6 * np.abs(on.scale)
    return (on.smoothed(x + step) - on.smoothed(x - step)) / (2 * step)


def test_under_scan_and_remat():
    """Stacked layers in a scan of rematerialized bodies, against the layers one by one."""
    text = "int8 absmax,0.5 masked"
    layers = jnp.asarray(sample(2, 12, 12, seed=3))
    x = jnp.asarray(sample(4, 12))

    def layer(h, w):
        return jnp.sin(h @ w)

    def scanned(p, x):
        body = jax.checkpoint(lambda h, w: (layer(h, w), None))
        return jnp.sum(jax.lax.scan(body, x, p["w"])[0])

    def unrolled(p, x):
        for k in range(2):
            x = layer(x, p["w"][k])
        return jnp.sum(x)

    one, other = (
        jax.grad(qpass.transform(fn, rules(text, text)), argnums=(0, 1))({"w": layers}, x)
        for fn in (scanned, unrolled)
    )
    close(one[0]["w"], np.float64(other[0]["w"]))
    close(one[1], np.float64(other[1]))
    assert (np.asarray(one[0]["w"]) == 0).any()


def test_the_tangents_of_jvp_are_masked_too():
    params, x, _ = operands()
    text = "int8 absmax,0.5"
    q = qpass.transform(lambda p, x: x @ p["w"], rules(f"{text} masked", f"{text} masked"))
    dp, dx = jax.tree.map(jnp.cos, (params, x))
    _, tangent = jax.jvp(q, (params, x), (dp, dx))
    w_grid, x_grid = grids(text)
    dw = w_grid.mask(params["w"].T) * np.float64(dp["w"]).T
    close(tangent, (x_grid.mask(x) * np.float64(dx)) @ w_grid.seen.T + x_grid.seen @ dw.T)
