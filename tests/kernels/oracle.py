"""The float64 oracle of the kernel tests, and random products for them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from qpass_kernels import Product
from qpass_kernels.kernel import CODES, FLOATS

LIMITS = {"int8": (-128, 127), "int4": (-8, 7)}
# What normal numbers are multiplied by, so that they fill a good part of the type's range
SPREADS = {name: 50.0 for name in CODES if name not in LIMITS} | {"float8_e4m3b11fnuz": 5.0}
ACTS = ("int8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", *FLOATS)
EPS = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}


def product(m, n, k, lhs, rhs, *, batch=1, out="float32", group=None, lhs_group=False):
    """A Product; `group` makes the right scales grouped, `lhs_group` the left ones too."""
    codes = lhs in CODES
    lhs_scale = ("group" if lhs_group and group else "row") if codes else "none"
    rhs_scale = "group" if group else "row"
    return Product(batch, m, n, k, lhs, rhs, out, group or k, lhs_scale, rhs_scale)


@st.composite
def products(draw, sizes=40, ks=70, acts=ACTS, groups=(None, *range(1, 25))):
    """Random products of every type, with group tails as they come."""
    size = st.integers(1, sizes)
    return product(
        draw(size),
        draw(size),
        draw(st.integers(1, ks)),
        draw(st.sampled_from(acts)),
        draw(st.sampled_from(CODES)),
        batch=draw(st.integers(1, 3)),
        out=draw(st.sampled_from(FLOATS)),
        group=draw(st.sampled_from(groups)),
        lhs_group=draw(st.booleans()),
    )


def operands(p: Product, seed=0):
    """Random lhs, lhs_scale, rhs, rhs_scale for a product, as jax arrays."""
    rng = np.random.default_rng(seed)
    lhs, rhs = (
        _values(rng, (p.batch, rows, p.k), name) for rows, name in ((p.m, p.lhs), (p.n, p.rhs))
    )
    return lhs, _scale(rng, p, p.m, p.lhs_scale), rhs, _scale(rng, p, p.n, p.rhs_scale)


def exact(p: Product, lhs, lhs_scale, rhs, rhs_scale):
    """(result, sum of absolute terms) in float64, straight from the definition."""
    a, b = _real(p, lhs, lhs_scale), _real(p, rhs, rhs_scale)
    return (np.einsum("bmk,bnk->bmn", a, b), np.einsum("bmk,bnk->bmn", abs(a), abs(b)))


def assert_close(p: Product, got, args, dequantized="float32"):
    """Compare with the oracle: rounding of the result, of the sums, and of dequantized codes."""
    want, terms = exact(p, *args)
    assert got.shape == (p.batch, p.m, p.n)
    assert got.dtype == jnp.dtype(getattr(jnp, p.out))
    # a sum of k terms in float32 is off by at most about k eps sum|terms|; random signs make it
    # sqrt(k), and the scales and the final cast round once or twice more
    sums = (4 + 2 * p.k**0.5) * EPS["float32"] + 2 * EPS[dequantized] * (dequantized != "float32")
    bound = sums * terms + EPS[p.out] * abs(want) + 1e-30
    off = abs(np.asarray(got, np.float64) - want)
    assert np.all(off <= bound), f"{p}: off by {np.max(off / bound):.2f} of the bound"


def with_out(p: Product, out: str) -> Product:
    """The same product with another result type."""
    return dataclasses.replace(p, out=out)


def _values(rng, shape, name):
    if name in LIMITS:
        return jnp.asarray(rng.integers(*LIMITS[name], shape, endpoint=True), name)
    spread = SPREADS.get(name, 1.0)
    return jnp.asarray(rng.standard_normal(shape) * spread, getattr(jnp, name))


def _scale(rng, p, rows, layout):
    if layout == "none":
        return None
    groups = p.groups if layout == "group" else 1
    sizes = (p.batch, rows, groups)
    return jnp.asarray(rng.uniform(0.001, 0.1, sizes) * rng.choice([-1, 1], sizes), jnp.float32)


def _real(p, x, scale):
    x = np.asarray(x.astype(jnp.float32), np.float64)
    if scale is None:
        return x
    index = np.arange(p.k) // p.group if scale.shape[2] > 1 else np.zeros(p.k, int)
    return x * np.asarray(scale, np.float64)[:, :, index]
