"""How far the gradients of a recipe are from float ones, with the same parameters and batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qpass_bench.training.trainer import Trainer


def differences(trainer: Trainer, params: Any, batch: tuple, wanted: Any) -> dict[str, Any]:
    """Mean |difference| / mean |float|, over all numbers and in the worst leaf.

    Delayed scaling has seen the batch before: its first step would scale by 1.

    Args:
        trainer: of a recipe that quantizes.
        params: float.
        batch: of the task.
        wanted: the float gradients.
    """
    state = trainer.state(params, *batch)
    differentiate = jax.jit(trainer.differentiate)
    if trainer.recipe.delayed:
        *_, state = differentiate(state, params, *batch)
    _, found, _ = differentiate(state, params, *batch)
    return compared(found, wanted)


def compared(found: Any, wanted: Any) -> dict[str, Any]:
    """Mean |difference| / mean |wanted| of two trees, over all numbers and in the worst leaf."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): _parts(got, want)
        for (path, got), want in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
        )
    }
    ratios = {name: off / size for name, (off, size) in leaves.items() if size}
    worst = max(ratios, key=lambda name: ratios[name])
    off, size = (sum(parts) for parts in zip(*leaves.values(), strict=True))
    return {"mean": off / size, "worst": worst, "worst_mean": ratios[worst]}


def _parts(got: Any, want: Any) -> tuple[float, float]:
    """Sums of |difference| and of |float|."""
    return float(jnp.sum(jnp.abs(got - want))), float(jnp.sum(jnp.abs(want)))
