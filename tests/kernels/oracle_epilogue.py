"""The float64 oracle of products with an epilogue."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from qpass_kernels.epilogue import Epilogue
from tests.kernels import oracle
from tests.kernels.oracle import EPS

ERF = np.vectorize(math.erf)
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.where(x > 0, x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
ALL = Epilogue(bias=True, activation="silu", multiply=True, residual=True)
STEEPEST = 1.13  # no activation changes more than this times as fast as its argument


def operands(p, seed=0):
    """The operands of the product, about 1 in its result, then those of the epilogue."""
    lhs, lhs_scale, rhs, rhs_scale = oracle.operands(p, seed)
    size = np.abs(oracle.exact(p, lhs, lhs_scale, rhs, rhs_scale)[0]).mean()
    rng = np.random.default_rng(seed + 1)
    extra = [jnp.asarray(rng.standard_normal(x.shape), x.dtype) for x in abstract(p)]
    assert rhs_scale is not None
    return lhs, lhs_scale, rhs, rhs_scale / np.float32(size), *extra


def abstract(p):
    """The operands of the epilogue without their numbers."""
    bias = jax.ShapeDtypeStruct((p.batch, p.n), "float32")
    beside = jax.ShapeDtypeStruct((p.batch, p.m, p.n), p.out)
    return [bias if name == "bias" else beside for name in p.epilogue.operands]


def exact(p, *args):
    """(result, what an error of the sums is multiplied by, sum of absolute terms) in float64."""
    total, terms = oracle.exact(p, *args[:4])
    extra = dict(
        zip(p.epilogue.operands, (np.asarray(x, np.float64) for x in args[4:]), strict=True)
    )
    if "bias" in extra:
        total = total + extra["bias"][:, None]
        terms = terms + abs(extra["bias"][:, None])
    total = ACTIVATIONS[p.epilogue.activation](total)
    factor = abs(extra.get("multiply", 1.0))
    total = total * extra.get("multiply", 1.0)
    return (
        total + extra.get("residual", 0.0),
        factor,
        terms,
        abs(total) + abs(extra.get("residual", 0.0)),
    )


def assert_close(p, got, args, dequantized="float32"):
    """As the oracle for products does; what follows adds some roundings in float32."""
    want, factor, terms, size = exact(p, *args)
    assert got.shape == (p.batch, p.m, p.n)
    assert got.dtype == jnp.dtype(getattr(jnp, p.out))
    sums = (4 + 2 * p.k**0.5) * EPS["float32"] + 2 * EPS[dequantized] * (dequantized != "float32")
    # activations near 1 are computed with an error of a few units in the last place of 1
    bound = STEEPEST * factor * (sums * terms + 8 * EPS["float32"])
    bound = bound + 8 * EPS["float32"] * size + EPS[p.out] * abs(want)
    off = abs(np.asarray(got, np.float64) - want)
    assert np.all(off <= bound), f"{p}: off by {np.max(off / bound):.2f} of the bound"
