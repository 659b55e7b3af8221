"""A rotation: parameters multiplied by one orthogonal matrix, so that nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qpass.errors import FoldError
from qpass.folds.fold import Fold, Part, Refusal, flat_parameters
from qpass.folds.hadamard import block_order, spread
from qpass.folds.turn import runs
from qpass.numerics import QTensor
from qpass.quantize import parameters


@dataclass(frozen=True, eq=False)
class Gain:
    """The gain of a norm, which products that follow can take.

    Attributes:
        fold: of the value that it is part of.
        part: the gain's in that fold.
    """

    fold: Fold
    part: Part

    def absorbed(self, values: Sequence[Any]) -> list[Any]:
        """The arrays of the parameters where the gain is 1, and what follows is multiplied by it.

        Gains may be negative or zero; not zero where a bias is added behind.
        """
        leaf, ids, shift = values[self.part.position], self.part.charge.ids, self.part.charge.shift
        wide = jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32)) + shift
        ids = np.broadcast_to(ids, wide.shape)
        groups = self.fold.groups.ravel()
        known = jnp.ones(groups.max() + 1).at[groups[ids[ids >= 0]]].set(wide[ids >= 0])
        scaled = list(values)
        for part in self.fold.parts:
            scaled[part.position] = part.scaled(values[part.position], known[groups])
        scaled[self.part.position] = jnp.where(ids >= 0, 1 - shift, leaf).astype(leaf.dtype)
        return scaled


@dataclass(frozen=True, eq=False)
class Side:
    """A parameter that is turned.

    Attributes:
        position: of the leaf among the arrays of the parameters.
        path: the leaf's path.
        ids: as of `qpass.folds.turn.Turn`.
    """

    position: int
    path: str
    ids: np.ndarray

    def turned(self, leaf: Any, q: jax.Array) -> jax.Array:
        """The leaf with each of its runs multiplied by ``q f32[n, n]``, in the dtype it has."""
        axes = [d for d, n in enumerate(self.ids.shape) if n > 1]
        last = range(-len(axes), 0)
        wide = jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32))
        moved = jnp.moveaxis(wide, axes, last)
        flat = moved.reshape(*moved.shape[: -len(axes)], -1)
        places = runs(self.ids, len(q))
        new = jnp.matmul(flat[..., places], q, precision=lax.Precision.HIGHEST)
        flat = flat.at[..., places].set(new)
        return jnp.moveaxis(flat.reshape(moved.shape), last, axes).astype(leaf.dtype)


@dataclass(frozen=True, eq=False)
class Rotation:
    """A value of a program, and all that writes and reads it, that one matrix can turn.

    Attributes:
        sites: ids of the products that read the value.
        gains: norms on the way, whose gains go into these products first.
        sides: the parameters that are turned.
        size: channels that are turned together.
        keeps_ones: whether means over the channels are taken, which the matrix has to keep.
    """

    sites: tuple[str, ...]
    gains: tuple[Gain, ...]
    sides: tuple[Side, ...]
    size: int
    keeps_ones: bool

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the parameters that are turned."""
        return tuple(side.path for side in self.sides)

    @property
    def absorbed(self) -> tuple[str, ...]:
        """Paths of the gains that become 1."""
        return tuple(dict.fromkeys(gain.part.path for gain in self.gains))

    @property
    def block(self) -> int:
        """The order of the Hadamard matrices on the matrix' diagonal: how far a channel spreads."""
        return block_order(self.size)

    def matrix(self, seed: int = 0) -> jax.Array:
        """The orthogonal matrix ``f32[size, size]``: see `qpass.folds.hadamard.spread`."""
        return jnp.asarray(spread(self.size, seed, self.keeps_ones), jnp.float32)

    def apply(self, params: Any, seed: int = 0) -> Any:
        """The turned parameters; the function computes the same.

        Args:
            params: float parameters, as they were given to ``rotations``.
            seed: of the matrix' signs.

        Raises:
            FoldError: a parameter is quantized, or a gain is zero where a bias is added.
        """
        boundary, call, values = flat_parameters(params)
        for gain in self.gains:
            _check(gain, values)
        quantized = [side.path for side in self.sides if isinstance(values[side.position], QTensor)]
        if quantized:
            raise FoldError(f"rotate before quantizing: {quantized[0]} is quantized.")
        return parameters(call, lambda: self.turned(values, seed), boundary.restore)

    def turned(self, values: Sequence[Any], seed: int) -> list[Any]:
        """The arrays of the parameters, turned."""
        turned, q = list(values), self.matrix(seed)
        for gain in self.gains:
            turned = gain.absorbed(turned)
        for side in self.sides:
            turned[side.position] = side.turned(turned[side.position], q)
        return turned


def _check(gain: Gain, values: Sequence[Any]) -> None:
    """Refuse a gain of zero that something would be divided by."""
    if sum(part.charge.sign < 0 for part in gain.fold.parts) == 1:
        return
    leaf = values[gain.part.position]
    if bool(jnp.any(jnp.asarray(leaf) + gain.part.charge.shift == 0)):
        raise FoldError(
            f"leave this rotation: {gain.part.path} holds zeros, and the bias behind it cannot be "
            "divided by them."
        )


@dataclass(frozen=True, eq=False)
class Rotations(Sequence[Rotation]):
    """The rotations of a function; printed, a table.

    Attributes:
        found: the rotations.
        refusals: products of which none turns what they read, each with the reason.
        error: relative difference that all rotations together made when they were tried out.
    """

    found: tuple[Rotation, ...]
    refusals: tuple[Refusal, ...]
    error: float

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __iter__(self) -> Iterator[Rotation]:
        return iter(self.found)

    def apply(self, params: Any, seed: int = 0) -> Any:
        """The parameters with all rotations applied, each with a matrix of its own.

        Raises:
            FoldError: as `Rotation.apply`.
        """
        for k, rotation in enumerate(self.found):
            params = rotation.apply(params, seed + k)
        return params

    def table(self) -> Any:
        """A rich table."""
        from qpass.folds.table import rotations_table

        return rotations_table(self.found, self.refusals)

    def __str__(self) -> str:
        from qpass.views import to_text

        return to_text(self.table())
