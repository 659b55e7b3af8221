"""N:M sparsity: of every M neighbours at most N are kept, those of the largest magnitude.

Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch" (2021).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qpass.errors import RuleError


@dataclass(frozen=True)
class NM:
    """What a rule keeps of its weights.

    Attributes:
        n: how many elements are kept of ``m`` along the innermost axis that is summed over.
        m: how many elements are neighbours. The last ones may be fewer: they are taken as filled
            up with zeros, so that of ``t`` neighbours ``min(n, t)`` are kept.
        start: the step at which masks are made for the first time; before it, all is kept.
        every: they are made anew after so many steps; None for never.

    Raises:
        RuleError: these are no such numbers.
    """

    n: int
    m: int
    start: int = 0
    every: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.n, self.m, self.start, self.every or 1)
        if any(isinstance(k, bool) or not isinstance(k, int) for k in numbers):
            raise RuleError(f"Give NM integers; got {numbers}.")
        if not 0 < self.n <= self.m:
            raise RuleError(f"Give NM(n, m) with 0 < n <= m; got {self.n}:{self.m}.")
        if self.start < 0 or (self.every is not None and self.every < 1):
            raise RuleError(
                f"Give NM start= of 0 or more and every= of 1 or more; got {self.start} and "
                f"{self.every}."
            )

    def is_due(self, step: jax.Array | int) -> jax.Array:
        """Whether masks are made at this step."""
        since = jnp.asarray(step) - self.start
        return since == 0 if self.every is None else (since >= 0) & (since % self.every == 0)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


def largest(x: jax.Array, axis: int, n: int, m: int) -> jax.Array:
    """Which elements are among the ``n`` of largest magnitude of their ``m`` neighbours.

    Of equal ones, those that come first are kept.

    Args:
        x: floats.
        axis: neighbours lie along it.
        n: how many are kept.
        m: of how many; the last may be fewer.

    Returns:
        bool, of the shape of ``x``.
    """
    magnitude = jnp.moveaxis(jnp.abs(x), axis, -1)
    size = magnitude.shape[-1]
    padding = [(0, 0)] * (x.ndim - 1) + [(0, -size % m)]
    groups = jnp.pad(magnitude, padding, constant_values=-1)
    groups = groups.reshape(*groups.shape[:-1], -1, m)
    mine, other = groups[..., :, None], groups[..., None, :]
    first = jnp.tri(m, k=-1, dtype=bool)  # [mine, other]: the other comes before
    before = (other > mine) | ((other == mine) & first)
    kept = jnp.sum(before, -1) < n
    kept = kept.reshape(*magnitude.shape[:-1], -1)[..., :size]
    return jnp.moveaxis(kept, -1, axis)


@dataclass(frozen=True)
class Masked:
    """A weight that is masked.

    Attributes:
        path: of the weight.
        sparsity: how many of its elements are kept.
        shape: of the weight.
        axis: along which neighbours lie: the innermost that is summed over.
    """

    path: str
    sparsity: NM
    shape: tuple[int, ...]
    axis: int

    def mask(self, weight: jax.Array) -> jax.Array:
        """Which elements of the weight are kept."""
        return largest(weight, self.axis, self.sparsity.n, self.sparsity.m)

    def __str__(self) -> str:
        return f"{self.sparsity} along axis {self.axis}"
