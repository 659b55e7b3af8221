"""Statistics of an operand over many batches, and the range that is chosen from them.

A state is a dict of float32 arrays, with the same fields whatever is seen: it can be carried,
mapped, saved and merged. Every field may have leading axes, one for each loop around the operand.
For batches ``x_1, x_2, ...`` of which only finite values count:

* ``count``: values seen; ``batches``: batches with any;
* ``min``, ``max``: of all values;
* ``min_sum``, ``max_sum``: each batch's extremes, summed over batches;
* ``min_ema``, ``max_ema``, ``ema_weight``: the same with weights that fall by a factor with each
  later batch, and the sum of those weights;
* ``histogram``: how many magnitudes lie in each bin, `BINS` of them;
* what is gathered by channel (`qpass.numerics.channels`): ``rows``, ``squares``, ``hessian`` are
  sums, ``absmax`` is a maximum.

Bins have fixed edges, so that histograms add: `PER_OCTAVE` to each factor of two from 2**-32 to
2**32, evenly spaced within. What is smaller or larger is in the first or the last one.
"""

import operator
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import CalibrationError
from qpass.suggest import did_you_mean

type State = dict[str, jax.Array]
type Bounds = tuple[jax.Array, jax.Array]

PER_OCTAVE = 32
_OCTAVES = 64
BINS = _OCTAVES * PER_OCTAVE
# A float32 shifted right by this is a count of bins since the least one: exponent and first bits of
# the fraction, as in an HDR histogram.
_SHIFT = 23 - PER_OCTAVE.bit_length() + 1
_FIRST = (127 - _OCTAVES // 2) * PER_OCTAVE


def observe(x: jax.Array, ranges: bool = True) -> dict[str, State]:
    """What one run of a site shows of one operand, by how several runs are merged.

    Args:
        x: the operand, of any float dtype and shape.
        ranges: whether all that ranges are chosen from is kept; else the count alone.

    Returns:
        fields to be added (``"sum"``), and of which the least (``"min"``) and the greatest
        (``"max"``) counts.
    """
    finite = jnp.isfinite(x)
    x = x.astype(jnp.float32)
    # Counted in integers: adding ones to a float32 stops at 2**24.
    count = jnp.sum(finite, dtype=jnp.int32).astype(jnp.float32)
    if not ranges:
        return {"sum": {"count": count}, "min": {}, "max": {}}
    return {
        "sum": {"count": count, "histogram": _histogram(x, finite)},
        "min": {"min": jnp.min(x, initial=np.inf, where=finite)},
        "max": {"max": jnp.max(x, initial=-np.inf, where=finite)},
    }


def _histogram(x: jax.Array, counted: jax.Array) -> jax.Array:
    bits = lax.bitcast_convert_type(jnp.abs(x), jnp.int32)
    bins = jnp.clip((bits >> _SHIFT) - _FIRST, 0, BINS - 1)
    return jnp.zeros(BINS, jnp.int32).at[bins].add(counted.astype(jnp.int32)).astype(jnp.float32)


def of_one_batch(seen: Mapping[str, State]) -> State:
    """The state after one batch, from the merged `observe` of its runs."""
    state = {name: array for part in seen.values() for name, array in part.items()}
    if "min" not in state:
        return state
    ran = state["count"] > 0
    ends = {end: jnp.where(ran, state[end], 0) for end in ("min", "max")}
    once = ran.astype(jnp.float32)
    return {
        **state,
        "batches": once,
        "ema_weight": once,
        **{f"{end}_{kind}": value for end, value in ends.items() for kind in ("sum", "ema")},
    }


def merge(earlier: State, later: State, decay: float) -> State:
    """The state after the batches of both.

    Args:
        earlier: a state.
        later: a state of later batches, with the same fields and shapes.
        decay: what weights of the moving average fall by with each batch, from 0 to 1.
    """
    faded = decay ** later["batches"] if "batches" in later else 1
    kinds: dict[str, Callable] = {"min": jnp.minimum}
    kinds |= dict.fromkeys(("max", "absmax"), jnp.maximum)
    kinds |= dict.fromkeys(("min_ema", "max_ema", "ema_weight"), lambda a, b: a * faded + b)
    # Sums of NumPy arrays stay on the host, where Hessians are kept.
    return {name: kinds.get(name, operator.add)(earlier[name], later[name]) for name in earlier}


def range_of(state: State, method: str = "max") -> Bounds:
    """Bounds for the operand, from what was seen of it.

    Args:
        state: its statistics.
        method: ``"max"`` (nothing seen is clipped), ``"mean"`` (of the batches' extremes),
            ``"ema"`` (likewise, later batches count more), or ``"percentile,99.9"`` (the extremes,
            but neither beyond that percentile of the magnitudes, up to 3% too wide).

    Returns:
        ``(lo, hi)``, float32, ``lo <= 0 <= hi``; NaN where no value was seen.

    Raises:
        CalibrationError: there is no such method.
    """
    lo, hi = _method(method)(state)
    seen = state["count"] > 0
    return (
        jnp.where(seen, jnp.minimum(lo, 0), jnp.nan),
        jnp.where(seen, jnp.maximum(hi, 0), jnp.nan),
    )


def _method(text: str) -> Callable[[State], Bounds]:
    word, _, number = text.partition(",")
    if word == "percentile":
        return partial(_percentile, p=_percent(text, number))
    methods: dict[str, Callable[[State], Bounds]] = {"max": _max, "mean": _mean, "ema": _ema}
    if number or word not in methods:
        meant = did_you_mean(word, (*methods, "percentile"))
        raise CalibrationError(
            f"give method= as 'max', 'mean', 'ema' or 'percentile,99.9'; got {text!r}: {meant}"
        )
    return methods[word]


def _percent(text: str, number: str) -> float:
    try:
        p = float(number)
    except ValueError:
        p = np.nan
    if not 50 <= p <= 100:
        raise CalibrationError(
            f"give a percentile from 50 to 100, such as 'percentile,99.9'; got {text!r}"
        )
    return p


def _max(state: State) -> Bounds:
    return state["min"], state["max"]


def _mean(state: State) -> Bounds:
    return state["min_sum"] / state["batches"], state["max_sum"] / state["batches"]


def _ema(state: State) -> Bounds:
    return state["min_ema"] / state["ema_weight"], state["max_ema"] / state["ema_weight"]


def _percentile(state: State, p: float) -> Bounds:
    """The extremes, cut at the upper edge of the bin that holds the percentile.

    As in `qpass.numerics.ranges.Percentile`, it is one of the magnitudes: that with
    ``floor((count - 1) * (100 - p) / 100)`` larger ones. A percentile of next to nothing (the first
    bin) clips nothing.
    """
    # From the largest magnitudes down: these sums are small, so float32 holds them.
    above = lax.cumsum(state["histogram"], axis=state["histogram"].ndim - 1, reverse=True)
    larger = jnp.floor(jnp.maximum(state["count"] - 1, 0) * ((100 - p) / 100))
    at = jnp.sum(above > larger[..., None], axis=-1) - 1
    edge = jnp.asarray(_upper_edges())[jnp.clip(at, 0, BINS - 1)]
    return jnp.maximum(state["min"], -edge), jnp.minimum(state["max"], edge)


def _upper_edges() -> np.ndarray:
    """The least number above each bin; of the first and the last one no bound at all."""
    edges = ((np.arange(1, BINS + 1) + _FIRST) << _SHIFT).astype(np.int32).view(np.float32)
    edges[[0, -1]] = np.inf
    return edges
