"""AWQ: factors that make the error of quantized products small, found by trying them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass.compare import layer_errors
from qpass.folds.find import scaled
from qpass.folds.fold import Fold, apply_all
from qpass.folds.methods import of_fold

ALPHAS = tuple(k / 10 for k in range(11))

type Errors = Mapping[str, tuple[float, ...]]


def awq(
    q: Any,
    folds: Iterable[Fold],
    params: Any,
    square: Mapping[str, Any],
    *args: Any,
    alphas: Sequence[float] = ALPHAS,
) -> Any:
    """The parameters with the channels scaled up that matter most (Lin et al., 2023).

    The factors of a fold are the typical magnitudes of its channels to a power ``alpha``. Each
    power is tried for all folds at once, on real arguments; each fold, and each layer of one in a
    scan, keeps that with which the results of its own products had the smallest error.

    Args:
        q: the transformed function; its rules say how weights are quantized.
        folds: of `Transformed.folds`, all or some.
        params: float parameters.
        square: the mean square of each channel: statistics, or by id of the site
            ``f32[*layers, K]``.
        *args: the function's other arguments.
        alphas: the powers to try; 0 leaves everything as it is.

    Raises:
        FoldError: no product of a fold is in the statistics, or their shape is another.
    """
    folds = tuple(folds)
    typical = [jnp.sqrt(of_fold(fold, square, "square")) for fold in folds]
    tried = [[_factors(x, alpha) for x in typical] for alpha in alphas]
    seen = _errors(q, params, args, folds, tried)
    chosen = []
    for k, fold in enumerate(folds):
        best = np.argmin([_loss(fold, errors) for errors in seen], axis=0)
        options = jnp.stack([each[k] for each in tried])
        chosen.append(jnp.take_along_axis(options, jnp.asarray(best)[None, ..., None], axis=0)[0])
    return apply_all(params, zip(folds, chosen, strict=True))


def _factors(typical: jax.Array, alpha: float) -> jax.Array:
    """The factors for one power, around 1: ``f32[*layers, K]`` in and out."""
    s = jnp.where(typical > 0, jnp.where(typical > 0, typical, 1) ** alpha, 1)
    ends = jnp.max(s, axis=-1, keepdims=True) * jnp.min(s, axis=-1, keepdims=True)
    return s / jnp.sqrt(ends)


def _errors(
    q: Any, params: Any, args: tuple, folds: Sequence[Fold], tried: Sequence[Sequence[jax.Array]]
) -> list[Errors]:
    """For each list of factors the relative error of each quantized product, in each layer.

    Compiled once: the factors are arguments.
    """
    with q._enter((params, *args), {}) as (boundary, call):
        plan = q._plan(call, boundary)
        errors = layer_errors(plan, call, q.given)
        run = jax.jit(lambda values, factors: errors(scaled(plan, values, folds, factors)))
        found = [run(list(call.values), list(factors)) for factors in tried]
    return [{site: tuple(map(float, e)) for site, e in seen.items()} for seen in found]


def _loss(fold: Fold, errors: Errors) -> np.ndarray:
    """The squared errors of a fold's products, summed, for each layer."""
    layers = fold.shape[:-1]
    own = [np.square(errors[site]) for site in fold.sites if site in errors]
    if any(len(e) != np.prod(layers, dtype=int) for e in own):  # not all in the same loops
        return np.full(layers, sum(float(np.sum(e)) for e in own))
    return np.sum(own, axis=0).reshape(layers) if own else np.zeros(layers)
