"""The formulas of other libraries in numpy: each operation in float32, rounded where they round.

Each oracle takes an array, one block size for each of its two axes and a text such as "int4 asym",
and gives scales, zero points and codes as float32 arrays.
"""

import functools

import jax.numpy as jnp
import numpy as np

from tests.numerics import oracle

BITS = {"int8": 8, "int4": 4, "int3": 3}


def rounded(y, dtype):
    return np.asarray(y, np.float32).astype(np.dtype(dtype)).astype(np.float32)


def extremes(x, blocks):
    """The least and the greatest value of every block."""
    values = oracle.widen(x)
    rows, columns = values.shape
    cut = values.reshape(rows // blocks[0], blocks[0], columns // blocks[1], blocks[1])
    return values, cut.min((1, 3)), cut.max((1, 3))


def limits(name, text):
    """How many steps a scale divides, the least and the greatest code."""
    if name not in BITS:
        return 448, -448, 448
    half = 2 ** (BITS[name] - 1)
    return (2 * half - 1 if "asym" in text else half - 0.5), -half, half - 1


def codes(y, name, least, greatest):
    y = np.clip(np.rint(y) if name in BITS else y, least, greatest)
    return y if name in BITS else y.astype(oracle.CODES[name]).astype(np.float32)


def qwix(x, blocks, text):
    """Qwix 0.1.8: products with reciprocals, in float32 for bf16 and in f16 for f16."""
    name, dtype = text.split()[0], x.dtype
    narrow = dtype if dtype == jnp.float16 else jnp.float32
    to = functools.partial(rounded, dtype=dtype)
    values, low, high = extremes(x, blocks)
    steps, least, greatest = limits(name, text)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    span = to(high - low) if "asym" in text else np.maximum(-low, high)
    scale = to(span * rounded(np.float32(1) / np.float32(steps), narrow))
    scale = np.where(scale < np.sqrt(float(jnp.finfo(dtype).tiny)), np.float32(1), scale)
    inverse = rounded(1 / scale, narrow)
    y = to(values * oracle.spread(inverse, values.shape, blocks))
    if "asym" not in text:
        return scale, np.zeros_like(scale), codes(y, name, least, greatest)
    zero = np.clip(np.rint(to(least - to(low / scale))), least, greatest)
    y = to(y + oracle.spread(zero, values.shape, blocks))
    return scale, zero, codes(y, name, least, greatest)


def torchao(x, blocks, text, keeps=False):
    """torchao 0.18: true quotients; `keeps`: reciprocals and products in the dtype of the array."""
    name, dtype = text.split()[0], x.dtype
    to = functools.partial(rounded, dtype=dtype)
    keep = functools.partial(rounded, dtype=dtype if keeps else np.float32)
    values, low, high = extremes(x, blocks)
    steps, least, greatest = limits(name, text)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    floor = float(jnp.finfo(dtype).smallest_normal)
    span, zero = np.maximum(-low, high), np.zeros_like(low)
    if "asym" in text:
        span, floor = to(high - low), floor if keeps else 2.0**-23
    scale = np.maximum(to(span / np.float32(steps)), np.float32(floor))
    if "asym" in text:
        zero = np.clip(least - np.rint(to(low / scale)), least, greatest)
    y = keep(values * oracle.spread(keep(1 / scale), values.shape, blocks))
    return (
        scale,
        zero,
        np.clip(np.rint(y) + oracle.spread(zero, values.shape, blocks), least, greatest),
    )


def aqt(x, blocks, text):
    """aqtp 0.9.0: reciprocals in the dtype of the array, bounds of float types in float32."""
    name, dtype = text.split()[0], x.dtype
    narrow = dtype if dtype == jnp.float16 and name in BITS else jnp.float32
    to = functools.partial(rounded, dtype=dtype)
    values, low, high = extremes(x, blocks)
    steps, least, greatest = limits(name, text)
    amax = np.maximum(-low, high)
    scale = np.where(amax == 0, np.float32(1), amax)
    scale = to(scale * rounded(np.float32(1) / np.float32(steps), narrow))
    y = to(values * oracle.spread(to(1 / scale), values.shape, blocks))
    return scale, np.zeros_like(scale), codes(y, name, max(least, -greatest), greatest)


ORACLES = {
    "qwix": qwix,
    "torchao": torchao,
    "torchao_intx": functools.partial(torchao, keeps=True),
    "aqt": aqt,
}
