"""How far the results of a function are from those of its float self."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from qpass.errors import CallError
from qpass.suggest import did_you_mean

type Loss = Callable[..., Any]
"""A user's: of the result and the batch, a number; less is better."""
type Distance = Callable[[Any, Any], jax.Array]
"""Of the result and the one that is wanted, ``f32[]``; 0 where they are equal."""


def relative_error(found: Any, wanted: Any) -> jax.Array:
    """The sum of squared differences over the sum of squares, of all floating results together."""
    pairs = [
        (jnp.asarray(f, jnp.float32), jnp.asarray(w, jnp.float32))
        for f, w in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
        if jnp.issubdtype(jnp.result_type(w), jnp.floating)
    ]
    if not pairs:
        raise CallError("search for a function with a floating result, or give it a loss of yours.")
    error = sum(jnp.sum((f - w) ** 2) for f, w in pairs)
    return jnp.asarray(error / sum(jnp.sum(w**2) for _, w in pairs))


def kl_divergence(found: Any, wanted: Any) -> jax.Array:
    """The mean over rows of KL(softmax(wanted) || softmax(found)) over the last axis, in nats.

    Kullback and Leibler, On Information and Sufficiency, 1951.
    """
    results = jax.tree.leaves(wanted)
    if len(results) != 1 or not (
        results[0].ndim and jnp.issubdtype(results[0].dtype, jnp.floating)
    ):
        shown = ", ".join(f"{r.dtype}{list(r.shape)}" for r in results)
        raise CallError(
            f"with loss='kl' give a function whose one result is logits [..., classes]; its "
            f"results are {shown}. Give a function of these alone, another loss, or one of yours."
        )
    mine, floats = _log_softmax(found), _log_softmax(wanted)
    return jnp.mean(jnp.sum(jnp.exp(floats) * (floats - mine), axis=-1))


def _log_softmax(tree: Any) -> jax.Array:
    (logits,) = jax.tree.leaves(tree)
    return jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))


DISTANCES: Mapping[str, Distance] = MappingProxyType({"error": relative_error, "kl": kl_divergence})
"""Losses by name, each of the result and the float function's."""


def check_loss(loss: str | Loss) -> None:
    """Refuse what is no loss.

    Raises:
        CallError: it is no function, and there is none of that name.
    """
    if not callable(loss) and loss not in DISTANCES:
        meant = did_you_mean(str(loss), DISTANCES)
        raise CallError(f"name a loss, or give a function (result, *batch); got {loss!r}: {meant}")
