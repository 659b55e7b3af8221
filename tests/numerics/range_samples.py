"""Arrays to look for ranges in, a small quantizer to try them with, and blocks one by one.

The quantizer is written here, so that ranges are tested without the formulas of qpass.
"""

import jax
import jax.numpy as jnp
import numpy as np

from qpass.numerics.blocks import expand, reduce_blocks
from qpass.numerics.ranges import Sample
from tests.numerics import oracle

# shape -> blocks: shared, per index, cut with a tail, cut along two axes, nothing shared.
CUTS = [
    ((4, 24), (1, 24)),
    ((4, 24), (4, 24)),
    ((4, 24), (4, 1)),
    ((3, 22), (1, 8)),
    ((5, 22), (2, 8)),
    ((2, 3, 10), (1, 3, 4)),
    ((7,), (7,)),
    ((7,), (1,)),
    ((), ()),
]


def sample(x, blocks, bits=4, symmetric=True, importance=None):
    """A sample of an array of any float dtype, tried with integers of that many bits."""
    x = jnp.asarray(x)
    known = jnp.isfinite(x)
    values = jnp.where(known, x, 0).astype(jnp.float32)
    finite = reduce_blocks(known.astype(jnp.float32), blocks, jnp.sum)

    def trial(lo, hi):
        ends = (expand(end, x.shape, blocks) for end in (lo, hi))
        return back(values, *ends, bits, symmetric, jnp)

    return Sample(values, finite, blocks, importance, trial)


def back(x, lo, hi, bits, symmetric, np=np):
    """What comes back of values between bounds that broadcast to them."""
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        scale, zero = np.maximum(-lo, hi) / most, 0
    else:
        scale = hi / (most - least) - lo / (most - least)  # whose difference may be infinite
        scale = np.where(scale == 0, 1, scale)
        zero = np.rint(least - lo / scale)
    scale = np.where(scale == 0, 1, scale)
    return (np.clip(np.rint(x / scale) + zero, least, most) - zero) * scale


def each(x, blocks, of, kind=np.float64):
    """`of` the finite values of every block, in float64: an array of the shape of the scales."""
    x = np.asarray(oracle.widen(x), np.float64)
    found = np.zeros(oracle.counts(x.shape, blocks), kind)
    for index in np.ndindex(*found.shape):
        at = tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks, strict=True))
        block = np.ravel(x[at])
        found[index] = of(block[np.isfinite(block)])
    return found


def bounds(method, x, blocks, bits=4, **kwargs):
    """The bounds of a sample as float64 arrays, computed under jit."""
    return all_bounds((method,), x, blocks, bits, **kwargs)[method]


def all_bounds(methods, x, blocks, bits=4, **kwargs):
    """`bounds` of several methods in one program, by method."""
    x = jnp.asarray(x)

    @jax.jit
    def run(x):
        given = sample(x, blocks, bits, **kwargs)
        return [method.bounds(given) for method in methods]

    return {method: _checked(ends, x, blocks) for method, ends in zip(methods, run(x), strict=True)}


def _checked(ends, x, blocks):
    for end in ends:
        assert end.dtype == jnp.float32
        assert end.shape == oracle.counts(x.shape, blocks)
    lo, hi = (np.asarray(end, np.float64) for end in ends)
    assert np.isfinite(lo).all()
    assert np.isfinite(hi).all()
    assert (lo <= 0).all()
    assert (hi >= 0).all()
    return lo, hi
