"""The error of storing an array in a type: mean|x - dq(q(x))| / mean|x|.

On three arrays: normal values, the same with one in a thousand fifty times as large, and weights of
the demo's language model. Every array is ``[rows, contracted]``; per channel means per row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass.errors import RuleError
from qpass.numerics import QTYPES, QType, Quantizer, as_quantizer, quantize
from qpass_bench.costs.quantizing import spelled
from qpass_bench.models import fetch, smollm
from qpass_bench.running.measure import machine

SHAPE = (256, 1024)
"""Rows by contracted columns, as in the published figures that the table can be held against."""

LAYER = 15
"""The layer of the demo's model whose matrices stand for real weights: the one in the middle."""

GRANULARITIES = {"tensor": "tensor", "channel": "channel", "128": "g128", "32": "g32"}
"""Columns of the table of types, and what they are in a quantizer's text."""

OWN = "own block"
"""The column of block formats, which are tried at no other granularity."""

RANGED = ("int4", "int4 g32")
RANGES = (
    "absmax",
    "absmax,0.9",
    "absmax,0.8",
    "minmax",
    "rms,2.5",
    "absmean,3",
    "percentile,99",
    "fixed,3",
    "mse",
    "wmse",
    "snr",
    "hqq",
    "pow2",
)

DIALECTS = ("qwix", "torchao", "aqt", "qpass")
PUBLISHED = {
    "int8": 0.00847,
    "int4": 0.14425,
    "int4 g128": 0.11914,
    "int4 g32": 0.10143,
    "nf4 g64": 0.09132,
    "fp8_e4m3": 0.02248,
    "fp8_e5m2": 0.04474,
    "mxfp8": 0.02246,
    "mxfp4": 0.11268,
    "nvfp4": 0.08934,
}
"""Round trips of ``SHAPE`` normal values that Qwix 0.1.8 gives."""

type Arrays = Mapping[str, Sequence[np.ndarray]]


def normal(seed: int = 0) -> np.ndarray:
    """Normal values ``f32[SHAPE]``."""
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def with_outliers(seed: int = 0) -> np.ndarray:
    """Normal values of which one in a thousand is fifty times as large."""
    chosen = np.random.default_rng(seed + 1).random(SHAPE) < 1e-3
    return np.where(chosen, 50, 1).astype(np.float32) * normal(seed)


def importance(columns: int, seed: int = 2) -> jax.Array:
    """How much an error in each column counts to `wmse`: as if inputs differed much in size."""
    drawn = np.random.default_rng(seed).standard_normal(columns)
    return jnp.asarray(np.exp(2 * drawn), jnp.float32)


def weights(cache: Path | None = None, layer: int = LAYER) -> list[np.ndarray]:
    """All matrices of one layer of the demo's model, permuted as it runs them: ``[out, in]`` each.

    Raises:
        FetchError: the model could not be had.
    """
    model = smollm.load(fetch.fetch(fetch.SMOLLM2, cache))
    layers = smollm.permute(model.params, model.config)["layers"]
    width = model.config.width
    attention = [layers["attention"][name]["kernel"][layer] for name in "qkv"]
    mlp = [layers["mlp"][name]["kernel"][layer] for name in ("gate", "up", "down")]
    out = layers["attention"]["o"]["kernel"][layer].reshape(-1, width)
    return [w.reshape(w.shape[0], -1).T for w in (*attention, out, *mlp)]


def arrays(cache: Path | None = None) -> dict[str, list[np.ndarray]]:
    """What every quantizer is tried on, by name."""
    return {"normal": [normal()], "outliers": [with_outliers()], "weights": weights(cache)}


def relative_error(exact: Sequence[np.ndarray], stored: Sequence[np.ndarray]) -> float:
    """Sum of absolute errors over sum of magnitudes."""
    lost = sum(np.abs(np.float64(a) - b).sum() for a, b in zip(exact, stored, strict=True))
    return float(lost / sum(np.abs(np.float64(a)).sum() for a in exact))


@dataclass(frozen=True)
class Grid:
    """Which quantizers are tried.

    Attributes:
        types: each at every granularity, a block format at its own only.
        ranged: quantizers as text, each with every one of `ranges`.
        ranges: words of range methods.
        published: errors of other libraries by quantizer, tried again in `dialects`.
        dialects: names.
    """

    types: Sequence[QType] = QTYPES
    ranged: Sequence[str] = RANGED
    ranges: Sequence[str] = RANGES
    published: Mapping[str, float] = MappingProxyType(PUBLISHED)
    dialects: Sequence[str] = DIALECTS

    @property
    def steps(self) -> int:
        """How many rows `report` has."""
        return len(self.types) + len(self.ranges) + len(self.published)


EVERYTHING = Grid()


def report(
    data: Arrays, grid: Grid = EVERYTHING, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Errors of every type, range method and dialect, ready for JSON; one tick a row."""
    types, ranges, dialects = [], [], []
    for qtype in grid.types:
        types.append({"type": qtype.name, "cells": dict(_cells(qtype, data))})
        tick()
    for method in grid.ranges:
        cells = {q: errors(as_quantizer(spelled(q, method)), data) for q in grid.ranged}
        ranges.append({"range": method, "cells": cells})
        tick()
    for text, published in grid.published.items():
        found = {d: _in_dialect(text, d, data) for d in grid.dialects}
        dialects.append({"quantizer": text, "published": published, "cells": found})
        tick()
    stamp = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "layer": LAYER}
    return {**stamp, "types": types, "ranges": ranges, "dialects": dialects}


def errors(quantizer: Quantizer, data: Arrays) -> dict[str, float]:
    """The error on every kind of data, by name; and the bits of an element of the first array."""
    back = jax.jit(partial(_round_trip, quantizer=quantizer))
    found = {
        name: relative_error(arrays, [np.asarray(back(jnp.asarray(x))) for x in arrays])
        for name, arrays in data.items()
    }
    first = next(iter(data.values()))[0]
    return {"bits": bits(quantizer, first.shape), **found}


def bits(quantizer: Quantizer, shape: tuple[int, ...]) -> float:
    """Bits that a stored element takes, scales counted."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    known = importance(shape[1])
    stored = partial(quantize, quantizer=quantizer, contract=(1,), pack=True, importance=known)
    q = jax.eval_shape(stored, x)
    return 8 * q.nbytes / q.size


def _round_trip(x: jax.Array, quantizer: Quantizer) -> jax.Array:
    return quantize(x, quantizer, (1,), importance=importance(x.shape[1])).dequantize()


def _cells(qtype: QType, data: Arrays) -> Iterator[tuple[str, dict[str, float]]]:
    """The errors of a type by granularity; unsigned ones with zero points."""
    columns = {OWN: ""} if qtype.block else GRANULARITIES
    for column, word in columns.items():
        text = spelled(qtype.name, word, "asym" if qtype.qmin == 0 else "")
        yield column, errors(as_quantizer(text), data)


def _in_dialect(text: str, dialect: str, data: Arrays) -> float | None:
    """The error on normal values; None where a dialect lacks the type."""
    try:
        quantizer = as_quantizer(text).in_dialect(dialect)
    except RuleError:
        return None
    return errors(quantizer, {"normal": data["normal"]})["normal"]
