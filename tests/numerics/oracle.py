"""Quantization written again in numpy, element by element, and samples to try it on.

Nothing here calls qpass: the formulas are those of the documentation, in float32 as IEEE has it
(`codes`, `scales`) or in float64 (`values`).
"""

import itertools
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

QMAX = {"int8": 127, "int4": 7, "fp8_e4m3": 448, "fp8_e5m2": 57344}
QMIN = {"int8": -128, "int4": -8, "fp8_e4m3": -448, "fp8_e5m2": -57344}
CODES = {
    "int8": np.int8,
    "int4": np.int8,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}
NAMES = tuple(QMAX)
FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def sample(shape, dtype=np.float32, seed=0):
    """Normal numbers in which every row has another magnitude."""
    rng = np.random.default_rng([seed, *shape])
    spread = np.exp2(rng.integers(-6, 6, size=(*shape[:-1], 1) if shape else ()))
    return jnp.asarray(rng.standard_normal(shape) * spread, dtype)


def widen(x):
    """Codes or floats of any dtype as float32, exactly."""
    return np.asarray(jnp.asarray(x).astype(jnp.float32))


def same(got, wanted):
    """Equal in shape and in every bit that a number has (NaN equals NaN)."""
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(widen(got), widen(wanted))


def scales(x, blocks, name):
    """float32 scales of every block of a numpy array."""
    x = np.asarray(x, np.float32)
    out = np.ones(counts(x.shape, blocks), np.float32)
    for index in np.ndindex(*out.shape):
        block = x[tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks, strict=True))]
        out[index] = scale_of(block[np.isfinite(block)], name)
    return out


def scale_of(block, name):
    """The least scale with which nothing is clipped; negative to use the longer side of codes."""
    tiny = np.finfo(np.float32).tiny
    above, below = (np.max(side * block, initial=0) for side in (1, -1))
    if max(above, below) < tiny:  # XLA takes subnormal float32 for zero.
        return 1
    larger, smaller = (np.float32(f(above, below)) for f in (max, min))
    scale = larger * np.float32(1 / -QMIN[name])
    if QMAX[name] < -QMIN[name]:
        scale = max(scale, smaller * np.float32(1 / QMAX[name]))
    return max(scale, tiny) * (-1 if above > below and QMAX[name] < -QMIN[name] else 1)


def codes(x, scale, blocks, name):
    """Codes of a numpy array, held in a numpy dtype of at least their width."""
    with np.errstate(invalid="ignore", over="ignore"):
        y = np.asarray(x, np.float32) * spread(np.float32(1) / scale, np.shape(x), blocks)
        if name.startswith("int"):
            y = np.rint(np.nan_to_num(y, nan=0, posinf=np.inf, neginf=-np.inf))
        return np.clip(y, QMIN[name], QMAX[name]).astype(CODES[name])


def values(q):
    """What a QTensor stands for, in float64 and logical order, from its fields alone."""
    order = [*range(q.codes.ndim - len(q.order)), *(a + q.codes.ndim for a in q.order)]
    groups = {a + q.codes.ndim: g for a, g in q.groups}
    blocks = [
        groups.get(axis, n if s == 1 else 1)
        for axis, n, s in zip(order, q.codes.shape, q.scale.shape, strict=True)
    ]
    scale = widen(q.scale) if q.outer is None else widen(q.scale) * widen(q.outer)
    zero = middle(q) if q.zero is None else spread(widen(q.zero), q.codes.shape, blocks)
    physical = (numbers(q) - zero) * spread(scale.astype(np.float64), q.codes.shape, blocks)
    return np.transpose(physical, np.argsort(order))


def middle(q):
    """The code of zero where there are no zero points: half of unsigned codes lie below it."""
    return {"uint8": 128.0, "uint4": 8.0}.get(q.qtype.name, 0.0)


def numbers(q):
    """The codes of a QTensor as the numbers they are, in float64; bits unpacked by numpy."""
    codes = widen(q.codes if not hasattr(q.codes, "words") else unpacked(q.codes))
    if q.qtype.kind == "table":
        return np.asarray(q.qtype.table, np.float32)[codes.astype(int)].astype(np.float64)
    return codes.astype(np.float64)


def unpacked(packed):
    """Codes from a little-endian stream of bits; signed ones in two's complement."""
    stream = np.unpackbits(np.asarray(packed.words), axis=-1, bitorder="little")
    bits = stream[..., : packed.n * packed.bits].reshape(*packed.shape, packed.bits)
    codes = (bits * 2 ** np.arange(packed.bits)).sum(-1)
    signed = np.issubdtype(packed.dtype, np.signedinteger)
    return codes - 2**packed.bits * (codes >= 2 ** (packed.bits - 1)) if signed else codes


def spread(scale, shape, blocks):
    """A scale for every element."""
    at = np.ix_(*(np.arange(n) // max(b, 1) for n, b in zip(shape, blocks, strict=True)))
    return scale[at] if shape else scale


def counts(shape, blocks):
    return tuple(1 if b == n else math.ceil(n / b) for n, b in zip(shape, blocks, strict=True))


def layouts(ndim):
    """Every way to name contracted and separate axes of an array of that rank, few of each."""
    for contract in itertools.permutations(range(ndim), min(ndim, 2)):
        yield contract[:1], ()
        yield contract, ()
        yield contract[:1], contract[1:]


def eager_jit_vmap_scan(f):
    """The ways in which a function of an array (batched on axis 0) is run."""

    def scanned(x):
        return jax.lax.scan(lambda carry, row: (carry, f(row)), 0, x)[1]

    def eager(x):
        rows = [f(row) for row in x]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    return {
        "eager": eager,
        "jit": jax.jit(eager),
        "vmap": jax.vmap(f),
        "jit vmap": jax.jit(jax.vmap(f)),
        "scan": jax.jit(scanned),
    }
