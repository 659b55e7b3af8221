"""Single products: their arrays, and what is timed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_bench.cases.catalogue import Product
from qpass_bench.cases.schemes import Variant
from qpass_bench.cases.setup import Setup

Arrays = tuple[np.ndarray, np.ndarray]
"""A weight ``[.., K, N]`` and an input ``[.., M, K]``, float32."""


def product(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """``x [.., M, K] @ weight [.., K, N]``."""
    return x @ params["weight"]


def turned(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """The same where the weight lies ``[.., N, K]``."""
    return x @ params["weight"].mT


def draw(case: Product) -> Arrays:
    """The arrays of a case, drawn as peers are told to draw them."""
    rng: Any = np.random.default_rng(case.seed)
    front = (case.experts,) if case.experts > 1 else ()
    weight = rng.standard_normal((*front, case.k, case.n), np.float32)
    return weight, rng.standard_normal((*front, case.m, case.k), np.float32)


def setup(case: Product, variant: Variant, drawn: Arrays) -> Setup:
    """The product of a case with the dtype and the layout of a variant."""
    weight, x = drawn
    stored = np.swapaxes(weight, -1, -2) if variant.turned else weight
    params = {"weight": jnp.asarray(stored, variant.dtype)}
    return Setup(turned if variant.turned else product, params, (jnp.asarray(x, variant.dtype),))


def error(result: Any, drawn: Arrays) -> float:
    """|result - exact| / |exact| over the first row of each product, exact in float64."""
    weight, x = drawn
    exact = x[..., :1, :].astype(np.float64) @ weight.astype(np.float64)
    first = np.asarray(result[..., :1, :]).astype(np.float64)
    return float(np.linalg.norm(first - exact) / np.linalg.norm(exact))
