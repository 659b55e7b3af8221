"""The arrays of a product, and how far a result is from float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

CHECKED = 64
"""Rows, and columns, of a large result that are computed in float64."""


def draw(case: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """`weight [.., K, N]` and `x [.., M, K]`, the same in every peer."""
    rng = np.random.default_rng(case["seed"])
    front = (case["experts"],) if case["experts"] > 1 else ()
    weight = rng.standard_normal((*front, case["k"], case["n"]), np.float32)
    return weight, rng.standard_normal((*front, case["m"], case["k"]), np.float32)


def distance(weight: np.ndarray, x: np.ndarray, result: np.ndarray) -> float:
    """Relative error of rows and columns of `x @ weight` that are spread over the result."""
    rows, columns = spread(result.shape[-2]), spread(result.shape[-1])
    exact = x[..., rows, :].astype(np.float64) @ weight[..., columns].astype(np.float64)
    return relative(result[..., rows, :][..., columns], exact)


def spread(size: int) -> np.ndarray:
    """Up to `CHECKED` positions from the first to the last."""
    return np.unique(np.linspace(0, size - 1, CHECKED).astype(int))


def relative(got: np.ndarray, exact: np.ndarray) -> float:
    """Size of the difference over the size of what it should be."""
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
