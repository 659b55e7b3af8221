"""What a column of the matrix consists of, and the arrays that its models share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import qpass
from tests.matrix.transforms import Transform

WIDTH, ROWS = 8, 4


@dataclass(frozen=True)
class Subject:
    """A column of the matrix.

    Attributes:
        apply: the model, ``apply(params, x)``.
        params: its parameters.
        x: a batch.
        weights: path of every weight that a product reads -> the axes that products contract.
        transformed: what users of the framework write to have ``apply`` transformed by these rules.
        build: makes the function under test from ``apply``; a training step is more than a model.
        derivative: whether that function holds derivatives of the model.
        own: transforms that the framework brings along, by row.
    """

    apply: Callable
    params: Any
    x: Any
    weights: Mapping[str, tuple[int, ...]]
    transformed: Callable = qpass.transform
    build: Callable = lambda apply: apply
    derivative: bool = False
    own: Mapping[str, Transform] = field(default_factory=lambda: MappingProxyType({}))


def batch(*shape: int) -> jax.Array:
    """Repeatable normal numbers."""
    return jnp.asarray(np.random.default_rng(0).standard_normal((ROWS, *shape)), jnp.float32)


def weight(*shape: int, seed: int = 0) -> jax.Array:
    """Repeatable normal numbers, scaled as a layer's weights."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape) * 0.3, jnp.float32)
