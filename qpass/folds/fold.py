"""A fold: parameters multiplied and divided by the same factors, so that nothing else changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qpass.errors import FoldError
from qpass.folds.charge import Charge
from qpass.graph.program import split_call
from qpass.integrations.boundary import enter
from qpass.numerics import QTensor
from qpass.quantize import parameters


@dataclass(frozen=True, eq=False)
class Part:
    """What a fold does to one parameter.

    Attributes:
        position: of the leaf among the arrays of the parameters.
        path: the leaf's path.
        charge: its factors; divided by where the sign is -1.
        is_weight: whether a product reads it as its weight.
    """

    position: int
    path: str
    charge: Charge
    is_weight: bool

    def scaled(self, leaf: Any, factors: jax.Array) -> jax.Array:
        """The leaf with its factors ``f32[count]``, in the dtype that it has."""
        ids, shift = self.charge.ids, self.charge.shift
        own = jnp.where(ids < 0, 1, factors[np.maximum(ids, 0)])
        wide = jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32)) + shift
        wide = wide * own if self.charge.sign > 0 else wide / own
        return (wide - shift).astype(leaf.dtype)

    def magnitudes(self, leaf: Any, count: int) -> jax.Array:
        """The greatest magnitude in the leaf for each factor, ``f32[count]``; 0 where none is."""
        ids = np.where(self.charge.ids < 0, count, self.charge.ids)
        size = jnp.abs(jnp.asarray(leaf, jnp.float32) + self.charge.shift)
        constant = tuple(d for d, n in enumerate(ids.shape) if n == 1)
        size = jnp.max(size, axis=constant, keepdims=True)
        found = jnp.zeros(count + 1).at[jnp.asarray(ids)].max(size)
        return found[:count]


@dataclass(frozen=True, eq=False)
class Fold:
    """Products of one value whose weights can take factors that parameters before it give up.

    With factors ``s``, one for each channel of the value, the value becomes ``x / s`` and what
    reads it is multiplied by ``s``; the function computes the same.

    Attributes:
        sites: ids of the products that read the value: the consumers.
        parts: what happens to which parameter.
        groups: int ``[*layers, K]``, for each channel the number of its group: channels of a
            group have one factor. K counts the channels that the products sum over, in the order
            in which they name the axes; there is one leading axis for each scan around them.
    """

    sites: tuple[str, ...]
    parts: tuple[Part, ...]
    groups: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the factors, ``(*layers, K)``."""
        return self.groups.shape

    @property
    def absorbed_by(self) -> tuple[str, ...]:
        """Paths of the parameters that are divided: norm gains, biases, weights of products."""
        return tuple(part.path for part in self.parts if part.charge.sign < 0)

    @property
    def weights(self) -> tuple[str, ...]:
        """Paths of the parameters that are multiplied."""
        return tuple(part.path for part in self.parts if part.charge.sign > 0)

    @property
    def equalizes(self) -> bool:
        """Whether weights of products are on both sides."""
        return any(part.is_weight and part.charge.sign < 0 for part in self.parts)

    def tied(self, values: Any) -> jax.Array:
        """For each channel the greatest value in its group: ``f32[*layers, K]`` in and out."""
        flat, groups = jnp.ravel(jnp.asarray(values, jnp.float32)), self.groups.ravel()
        greatest = jax.ops.segment_max(flat, groups, num_segments=self._n_groups)
        return greatest[groups].reshape(self.shape)

    @cached_property
    def _n_groups(self) -> int:
        return int(self.groups.max()) + 1

    def magnitudes(self, params: Any, sign: int) -> jax.Array:
        """The greatest magnitude in the weights of products for each channel.

        Args:
            params: the parameters.
            sign: 1 for the weights that are multiplied, -1 for those that are divided.

        Returns:
            ``f32[*layers, K]``, the same for channels of a group.
        """
        _, _, values = flat_parameters(params)
        count = int(np.prod(self.shape))
        parts = [p for p in self.parts if p.is_weight and p.charge.sign == sign]
        found = [part.magnitudes(values[part.position], count) for part in parts]
        return self.tied(jnp.max(jnp.stack(found), axis=0).reshape(self.shape))

    def apply(self, params: Any, s: Any) -> Any:
        """The parameters with these factors folded in; the function computes the same.

        Args:
            params: float parameters, as they were given to ``folds``.
            s: positive factors, ``f32[*layers, K]``; equal for the channels of a group.

        Raises:
            FoldError: the factors have another shape, are not positive and finite, or differ
                within a group; or a parameter is quantized.
        """
        s = self._checked(s)
        boundary, call, values = flat_parameters(params)
        for part in self.parts:
            leaf = values[part.position]
            if isinstance(leaf, QTensor):
                raise FoldError(f"fold before quantizing: {part.path} is quantized.")
            values[part.position] = part.scaled(leaf, jnp.ravel(s))
        return parameters(call, lambda: values, boundary.restore)

    def _checked(self, s: Any) -> jax.Array:
        where = f"the fold of {self.sites[0]}"
        if np.shape(s) != self.shape:
            raise FoldError(f"give factors {self.shape} for {where}; these are {np.shape(s)}.")
        s = jnp.asarray(s, jnp.float32)
        if isinstance(s, Tracer):
            return s
        if not bool(jnp.all((s > 0) & jnp.isfinite(s))):
            raise FoldError(f"give positive, finite factors for {where}.")
        if not bool(jnp.all(self.tied(s) == s)):
            raise FoldError(
                f"give channels of a group of {where} one factor, as fold.tied(s) does."
            )
        return s


@dataclass(frozen=True)
class Refusal:
    """Products of one value that nothing can be folded into.

    Attributes:
        sites: their ids.
        reason: why.
    """

    sites: tuple[str, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Folds(Sequence[Fold]):
    """The folds of a function, in the order of its products; printed, a table.

    Attributes:
        found: the folds.
        refusals: products without one, each with the reason.
        error: relative difference that all folds together made when they were tried out.
    """

    found: tuple[Fold, ...]
    refusals: tuple[Refusal, ...]
    error: float

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        """A fold by its number, or by the id of one of its products."""
        if not isinstance(index, str):
            return self.found[index]
        for fold in self.found:
            if index in fold.sites:
                return fold
        why = [r.reason for r in self.refusals if index in r.sites]
        raise FoldError(f"no fold of {index}: {why[0] if why else 'it is no product of a weight'}")

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.found)

    def table(self) -> Any:
        """A rich table."""
        from qpass.folds.table import folds_table

        return folds_table(self.found, self.refusals)

    def __str__(self) -> str:
        from qpass.views import to_text

        return to_text(self.table())


def apply_all(params: Any, factors: Iterable[tuple[Fold, Any]]) -> Any:
    """The parameters with all of these folds applied."""
    for fold, s in factors:
        params = fold.apply(params, s)
    return params


def flat_parameters(params: Any) -> tuple[Any, Any, list[Any]]:
    """Parameters as one call of their own: what restores them, the call, its arrays."""

    def is_wrapped(value: Any) -> bool:
        return isinstance(value, QTensor)

    with enter((params,), {}, is_wrapped) as boundary:
        call = split_call(lambda params: params, boundary.args, {}, 0, is_wrapped)
        return boundary, call, list(call.values)
