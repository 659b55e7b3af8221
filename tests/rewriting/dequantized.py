"""An oracle for weight-only rules: the float function itself, at the dequantized weights.

Gradients pass straight through to the float weights, so every derivative of any order is that of
the float function, taken at what the weights were rounded to.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from tests.rewriting.oracle import close, compiled, leaves

W8 = qpass.Rule(path="**", weight="int8")


def dequantized(q: Any, params: Any, *rest: Any) -> Any:
    """The parameters with every stored weight rounded as ``q`` stores it; some are."""
    stored = q.quantize(params, *rest)
    assert any(isinstance(leaf, qpass.QTensor) for leaf in leaves(stored))
    return jax.tree.map(
        lambda leaf: leaf.dequantize() if isinstance(leaf, qpass.QTensor) else leaf,
        stored,
        is_leaf=lambda leaf: isinstance(leaf, qpass.QTensor),
    )


def check_at_rounded_weights(
    fn: Callable, change: Callable, params: Any, *rest: Any, tolerance: float = 2e-5
) -> Any:
    """``change(transform(fn))`` is ``change(fn)`` at the rounded weights, not at the given ones."""
    q = qpass.transform(fn, W8)
    wanted = compiled(change(fn))
    rounded = wanted(dequantized(q, params, *rest), *rest)
    pairs = zip(*map(_numbers, (rounded, wanted(params, *rest))), strict=True)
    assert any(np.max(np.abs(a - b), initial=0) > 10 * tolerance for a, b in pairs), (
        "rounding the weights changes nothing here: this checks nothing"
    )
    close(compiled(change(q))(params, *rest), rounded, tolerance)
    return q


def _numbers(tree: Any) -> list:
    return [np.asarray(a) for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, np.inexact)]


def unchanged(fn: Callable) -> Callable:
    """The function itself, as the change to make."""
    return fn
