"""Which factors make the folded function easier to quantize: SmoothQuant and equalization.

>>> folds = q.folds(params, batch)                                      # doctest: +SKIP
>>> smooth = qpass.folds.smoothquant(folds, params, absmax, alpha=0.5)  # doctest: +SKIP

Statistics are a mapping from the id of a site to an array ``f32[*layers, K]``, or the object that
`Transformed.calibrate` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qpass.errors import FoldError
from qpass.folds.fold import Fold, apply_all
from qpass.stats import Stats


def smoothquant(
    folds: Iterable[Fold], params: Any, absmax: Mapping[str, Any], alpha: float = 0.5
) -> Any:
    """The parameters with outliers of activations moved into weights (Xiao et al., 2022).

    The factor of a channel is ``absmax(x)**alpha / absmax(w)**(1 - alpha)``, over all products that
    read it.

    Args:
        folds: of `Transformed.folds`, all or some.
        params: float parameters.
        absmax: the greatest magnitude of each channel that the products saw: statistics, or by id
            of the site ``f32[*layers, K]``.
        alpha: how much of the range goes into the weights: 0 none at all, 1 all of it.

    Raises:
        FoldError: no product of a fold is in the statistics, or their shape is another.
    """
    seen = [(fold, of_fold(fold, absmax, "absmax")) for fold in folds]
    return apply_all(params, [(f, smooth(f, params, x, alpha)) for f, x in seen])


def smooth(fold: Fold, params: Any, absmax: jax.Array, alpha: float) -> jax.Array:
    """The factors of one fold, ``f32[*layers, K]``; 1 where a channel is zero on either side."""
    weight = fold.magnitudes(params, 1)
    known = (absmax > 0) & (weight > 0)
    x, w = (jnp.where(known, side, 1) for side in (absmax, weight))
    return fold.tied(jnp.where(known, x**alpha / w ** (1 - alpha), 1))


def equalize(folds: Iterable[Fold], params: Any) -> Any:
    """The parameters with ranges of channels balanced between weights (Nagel et al., 2019).

    Needs no data: afterwards each channel has one range in the weights that make it and in those
    that read it. Folds into the gains of norms, whose other side is no weight, are left.
    """
    balanced = [(fold, _balance(fold, params)) for fold in folds if fold.equalizes]
    return apply_all(params, balanced)


def _balance(fold: Fold, params: Any) -> jax.Array:
    before, after = (fold.magnitudes(params, sign) for sign in (-1, 1))
    known = (before > 0) & (after > 0)
    return jnp.where(known, jnp.sqrt(before / jnp.where(known, after, 1)), 1)


def of_fold(fold: Fold, stats: Mapping[str, Any], kind: str) -> jax.Array:
    """What was seen of the value of a fold, ``f32[*layers, K]``: the greatest in each group.

    Raises:
        FoldError: none of its products was seen, or the shape is another.
    """
    found = [_of_site(stats, site, kind) for site in fold.sites if site in stats]
    if not found:
        raise FoldError(f"give statistics of {' or '.join(fold.sites)}: there are none.")
    layers = len(fold.shape) - 1
    # Between layers and channels there may be experts, or batch axes of the product.
    found = [jnp.max(x, axis=tuple(range(layers, x.ndim - 1))) for x in found]
    for x in found:
        if x.shape != fold.shape:
            raise FoldError(
                f"give statistics {fold.shape} for the fold of {fold.sites[0]}; these are "
                f"{x.shape}."
            )
    return fold.tied(jnp.max(jnp.stack(found), axis=0))


def _of_site(stats: Mapping[str, Any], site: str, kind: str) -> jax.Array:
    known = getattr(stats.of(site), kind) if isinstance(stats, Stats) else stats[site]
    return jnp.asarray(known, jnp.float32)
