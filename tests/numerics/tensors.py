"""Quantized tensors to operate on, and the law that every layout operation obeys."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from qpass.numerics import as_quantizer, quantize
from tests.numerics import oracle

# One of each granularity, kind of code and float dtype; g4 leaves tails in most shapes.
SPECS = (
    ("int8", jnp.float32),
    ("int8 tensor", jnp.bfloat16),
    ("int4 g4", jnp.float32),
    ("int4 g2", jnp.float16),
    ("fp8_e4m3", jnp.bfloat16),
    ("fp8_e5m2 g4", jnp.float32),
    ("int3 g4 asym", jnp.float32),  # codes packed in bytes, zero points
    ("uint4", jnp.bfloat16),
    ("nf4 g4", jnp.float16),
    ("mxfp6 g4", jnp.float32),  # codes packed, scales in a byte
    ("nvfp4 g4", jnp.float32),  # scales in a byte, and one for all
)


def tensor(shape, spec=("int8", jnp.float32), contract=(0,), separate=(), pack=False):
    """A quantized sample that carries its float array along, as in training."""
    name, dtype = spec
    x = oracle.sample(shape, dtype)
    q = quantize(x, as_quantizer(name), contract, separate, pack)
    return dataclasses.replace(q, latent=x)


@st.composite
def tensors(draw, max_ndim=4, min_size=1):
    """Any tensor: rank 1 to max_ndim, any axes contracted or separate, packed or not."""
    sizes = st.sampled_from([1, 2, 3, 4, 6, 8]).filter(lambda n: n >= min_size)
    shape = tuple(draw(st.lists(sizes, min_size=1, max_size=max_ndim)))
    axes = draw(st.permutations(range(len(shape))))
    cut = draw(st.integers(0, len(shape)))
    end = draw(st.integers(cut, len(shape)))
    spec = draw(st.sampled_from(SPECS))
    pack = draw(st.booleans())
    return tensor(shape, spec, tuple(axes[:cut]), tuple(axes[cut:end]), pack)


def assert_follows(q, got, op):
    """`got` is op of q: in value (exactly), in latent, and whole.

    The value is checked twice: as qpass dequantizes it, and from the fields by the oracle.
    """
    got.check("the result")
    wanted = op(np.asarray(oracle.widen(q.dequantize())))
    assert got.shape == wanted.shape
    assert got.ndim == wanted.ndim
    assert got.dtype == q.dtype
    value = got.dequantize()
    assert value.dtype == q.dtype
    np.testing.assert_array_equal(oracle.widen(value), wanted)
    np.testing.assert_array_equal(oracle.values(got), op(oracle.values(q)))
    if q.latent is None:
        assert got.latent is None
    else:
        assert got.latent.dtype == q.latent.dtype
        np.testing.assert_array_equal(oracle.widen(got.latent), op(oracle.widen(q.latent)))


def moves(f, q):
    """The primitives of `f(q)` that move codes, as a jaxpr names them."""
    jaxpr = jax.make_jaxpr(lambda codes: f(dataclasses.replace(q, codes=codes)))(q.codes)
    return [eqn.primitive.name for eqn in jaxpr.eqns if eqn.invars[0] in jaxpr.jaxpr.invars]
