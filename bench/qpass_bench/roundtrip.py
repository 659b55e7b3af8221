"""The error of storing an array in a type: mean|x - dq(q(x))| / mean|x|, and of a product."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

import qpass
from qpass.numerics import Quantizer, quantize

SHAPE = (256, 1024)
"""Rows by contracted columns, as in the published figures that the table can be held against."""

QUANTIZERS: tuple[Quantizer, ...] = tuple(
    quantizer
    for qtype in (qpass.int8, qpass.int4, qpass.fp8_e4m3, qpass.fp8_e5m2)
    for quantizer in (
        qtype.per_tensor(),
        qtype.per_channel(),
        qtype.grouped(128),
        qtype.grouped(32),
    )
)


@dataclass(frozen=True)
class RoundTrip:
    """Errors of one quantizer, relative to the mean magnitude of the array."""

    quantizer: str
    bits: float
    normal: float
    outliers: float
    true_division: float


def measure(quantizers: tuple[Quantizer, ...] = QUANTIZERS, seed: int = 0) -> list[RoundTrip]:
    """Every quantizer on normal data and on data with 0.1 % of values fifty times as large."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(SHAPE).astype(np.float32)
    outliers = np.where(rng.random(SHAPE) < 1e-3, 50, 1).astype(np.float32) * normal
    return [_measure(quantizer, normal, outliers) for quantizer in quantizers]


def _measure(quantizer: Quantizer, normal: np.ndarray, outliers: np.ndarray) -> RoundTrip:
    q = quantize(jnp.asarray(normal), quantizer, (1,))
    return RoundTrip(
        quantizer=str(quantizer),
        bits=8 * q.nbytes / q.size,
        normal=relative_error(normal, np.asarray(q.dequantize())),
        outliers=relative_error(
            outliers, np.asarray(quantize(jnp.asarray(outliers), quantizer, (1,)).dequantize())
        ),
        true_division=_with_true_division(normal, quantizer),
    )


def relative_error(exact: np.ndarray, rounded: np.ndarray) -> float:
    """Mean absolute error over mean magnitude."""
    return float(np.abs(exact - rounded).mean() / np.abs(exact).mean())


def _with_true_division(x: np.ndarray, quantizer: Quantizer) -> float:
    """The same error when codes are rounded from ``x / scale`` instead of ``x * (1 / scale)``."""
    q = quantize(jnp.asarray(x), quantizer, (1,))
    scale = np.asarray(q.scale, np.float64)
    if scale.shape[1] > 1:
        scale = np.repeat(scale, -(-x.shape[1] // scale.shape[1]), axis=1)[:, : x.shape[1]]
    scaled = x / scale
    qtype = quantizer.qtype
    if qtype.kind == "int":
        codes = np.clip(np.rint(scaled), qtype.qmin, qtype.qmax)
    else:
        codes = scaled.astype(np.float32).astype(qtype.dtype).astype(np.float64)
    return relative_error(x, codes * scale)
