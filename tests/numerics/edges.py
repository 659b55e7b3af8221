"""Arrays of edge values, and what has to hold of anything that they are quantized to."""

import jax
import jax.numpy as jnp
import numpy as np

from qpass.numerics.granularity import block_sizes
from qpass.numerics.quantize import quantize
from qpass.numerics.ranges import Fixed
from qpass.numerics.scale_formats import E4M3_GLOBAL
from tests.numerics import oracle

CONTRACT = (1,)
LEAST_NORMAL = float(np.finfo(np.float32).tiny)


def patterns(dtype):
    """Name -> twelve values in that dtype."""
    info = jnp.finfo(dtype)
    tiny, top, least = float(info.tiny), float(info.max), float(info.smallest_subnormal)
    inf, nan = np.inf, np.nan
    found = {
        "zeros": [0.0],
        "negative zeros": [-0.0],
        "a constant": [3.25],
        "a negative constant": [-1e-3],
        "one value": [0, 0, 0, -7, 0, 0, 0, 0, 0, 0, 0, 0],
        "one outlier": [1, -1, 0.5, 6e4, -0.25, 1],
        "one negative outlier": [1, -1, 0.5, -6e4, -0.25, 1],
        "infinities": [inf, 1, -inf, -2, 3, 0.5],
        "positive infinity alone": [inf, 0, 0],
        "NaN": [nan, 1, -1, 2, 0, -3],
        "NaN and infinities": [nan, inf, -inf, 2, 1, -0.25],
        "nothing finite": [nan, inf, -inf],
        "NaN alone": [nan],
        "the least normal": [tiny, 0, 0, 0],
        "a few times the least normal": [tiny, -2 * tiny, 3 * tiny, 0],
        "subnormals": [least, -4 * least, tiny / 2, 0],
        "the largest": [top, -top, top / 2, 1],
        "the largest alone": [top],
        "the largest on one side": [top, 0, -1, -top / 300],
        "all magnitudes": [tiny, top, -1, 1e-2, -top / 8, 0],
        "positive": [1, 2, 3, 4, 5, 100],
        "far from zero": [1000, 1001, 1002],
    }
    if dtype == jnp.bfloat16:
        found["beyond f16"] = [1e38, -1e-38, 1e20]
    return {name: np.resize(np.float64(values), 12) for name, values in found.items()}


def tensors(dtype):
    """One tensor `[2, 12]` for each pattern, stacked: the second row is the first, turned over."""
    rows = np.stack(list(patterns(dtype).values()))
    return jnp.asarray(np.stack([rows, -rows[:, ::-1]], axis=1), dtype)


def round_trips(quantizers, x):
    """Codes as values, scales and what comes back, for every quantizer: one compilation.

    Each of the stacked tensors is quantized by itself.
    """

    def of(quantizer, x):
        importance = jnp.linspace(0.1, 2, x.shape[1])[None]
        key = None if str(quantizer.rounding) == "" else jax.random.key(0)
        q = quantize(x, quantizer, CONTRACT, key=key, importance=importance)
        outer = 1 if q.outer is None else q.outer
        return q.scale.astype(jnp.float32) * outer, q.dequantize()

    def run(x):
        return [of(quantizer, x) for quantizer in quantizers]

    return jax.jit(jax.vmap(run))(x)


def check(quantizer, names, x, scale, back):
    """All that has to hold, for stacked tensors with these names."""
    assert back.dtype == x.dtype
    x, back, scale = (np.asarray(oracle.widen(a)) for a in (x, back, scale))
    blocks = block_sizes(x.shape[1:], quantizer.granularity, CONTRACT)
    spread = spread_over(scale, blocks, x.shape)
    for name, one, of, returned in zip(names, x, spread, back, strict=True):
        where = f"{quantizer}: {name}: {one.tolist()} -> {returned.tolist()}, scales {of.tolist()}"
        check_tensor(quantizer, one, of, returned, blocks, where)


def check_tensor(quantizer, x, scale, back, blocks, where):
    """Scales, NaN, infinities and what must not vanish, of one tensor."""
    assert np.isfinite(scale).all(), where
    assert (np.abs(scale) >= LEAST_NORMAL).all(), where
    nan = np.isnan(x)
    wanted = np.isnan(back[nan]) if quantizer.qtype.has_nan else back[nan] == 0
    assert wanted.all(), where
    assert np.isfinite(back[~nan]).all(), where
    for rows in range(0, x.shape[0], blocks[0]):
        for columns in range(0, x.shape[1], blocks[1]):
            at = np.s_[rows : rows + blocks[0], columns : columns + blocks[1]]
            _check_block(quantizer, x[at], scale[at], back[at], where)


def _check_block(quantizer, x, scale, back, where):
    known = back[~np.isnan(x)]
    assert (back[x == np.inf] == known.max(initial=0)).all(), where
    assert (back[x == -np.inf] == known.min(initial=0)).all(), where
    finite = np.abs(x[np.isfinite(x)])
    if representable(quantizer, finite.max(initial=0), np.abs(scale).max()):
        assert (back[np.isfinite(x)] != 0).any(), where


def representable(quantizer, greatest, scale):
    """Whether a block of that greatest magnitude must not come back as zeros.

    It must not where the magnitude is a normal float32: then there is a scale for it. Two kinds of
    scales do not follow the block: those of fixed ranges, and those in e4m3, which are relative to
    one of the whole tensor. There the magnitude must be beyond half of the least step.
    """
    if greatest < LEAST_NORMAL:
        return False
    shared = quantizer.qtype.scale_format == E4M3_GLOBAL
    if shared or isinstance(quantizer.range, Fixed):
        return greatest > scale * least_value(quantizer.qtype) * 0.5001
    return True


def least_value(qtype):
    """The least positive value of a code."""
    if qtype.kind == "int":
        return 1.0
    if qtype.kind == "table":
        return min(value for value in qtype.table if value > 0)
    return float(jnp.finfo(qtype.dtype).smallest_subnormal)


def spread_over(scale, blocks, shape):
    """Scales of stacked tensors, one for each element."""
    for axis, block in enumerate(blocks, start=1):
        scale = np.repeat(scale, block, axis)
    return np.broadcast_to(scale[:, : shape[1], : shape[2]], shape)
