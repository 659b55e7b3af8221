"""Delayed scaling: the range of a step, from the largest magnitudes of the steps before it.

The state of an operand is a dict of two float32 arrays, which may have leading axes, one for each
loop around the operand:

* ``history [..., length]``: the largest magnitude of each of the last steps. The latest is the
  first entry and the oldest the second one, as Flax and Transformer Engine keep theirs.
* ``bound [...]``: the largest magnitude that codes covered in the last step.

A step first asks for its `bound`, then records what it saw (`recorded`). Flax and Transformer
Engine keep ``scale = bound / greatest code`` instead; the bound is of all types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qpass.errors import RuleError
from qpass.numerics.range_base import Bounds, Range, Sample
from qpass.numerics.range_numbers import assign, number, shown
from qpass.numerics.ranges import PowerOfTwo

type DelayedState = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Delayed(Range):
    """From the magnitudes of earlier steps: their largest, times `2**margin`, to both sides.

    Attributes:
        length: how many steps are looked back at.
        margin: powers of two that are left free above the largest magnitude; negative ones clip.
        most_recent: the last step alone counts, not the largest of all.

    Raises:
        RuleError: the length is not a positive integer, or the margin no integer.
    """

    length: int = 1024
    margin: int = 0
    most_recent: bool = False

    def __post_init__(self) -> None:
        length = number("delayed", "length", self.length)
        margin = number("delayed", "margin", self.margin)
        if not (length >= 1 and float(length).is_integer()):
            raise RuleError(
                f"Give delayed scaling a history of 1 or more steps, such as 'delayed,1024'; "
                f"got {shown(length)}."
            )
        if not (float(margin).is_integer() and abs(margin) < 64):
            raise RuleError(
                f"Give delayed scaling a margin that is a number of powers of two, such as "
                f"'delayed,1024,1'; got {shown(margin)}."
            )
        assign(self, length=int(length), margin=int(margin))

    def bounds(self, sample: Sample) -> Bounds:
        """Those of the values themselves: what a step without earlier ones has."""
        return sample.extremes()

    def bound(self, state: DelayedState) -> jax.Array:
        """What codes are to cover in the next step; float32, of the shape of the old bound.

        The old bound where the history says nothing: its largest magnitude is 0 or not finite.
        """
        history = state["history"]
        amax = history[..., 0] if self.most_recent else jnp.max(history, axis=-1)
        known = (amax > 0) & jnp.isfinite(amax)
        return jnp.where(known, jnp.minimum(amax * 2.0**self.margin, _LARGEST), state["bound"])

    def start(self, greatest: float, loops: tuple[int, ...] = ()) -> dict[str, jax.Array]:
        """The state before the first step: nothing seen, and a scale of 1.

        Args:
            greatest: what the greatest code of the type stands for.
            loops: lengths of the loops around the operand.
        """
        history = jnp.zeros((*loops, self.length), jnp.float32)
        return {"bound": jnp.full(loops, greatest, jnp.float32), "history": history}

    def __str__(self) -> str:
        numbers = [self.length] if self.length != 1024 or self.margin else []
        numbers += [self.margin] if self.margin else []
        word = "most_recent" if self.most_recent else "delayed"
        return ",".join((word, *map(str, numbers)))


_LARGEST = float(jnp.finfo(jnp.float32).max)


def delayed(how: Range) -> Delayed | None:
    """The delayed scaling in a range, with powers of two or without; None in any other."""
    inner = how.inner if isinstance(how, PowerOfTwo) else how
    return inner if isinstance(inner, Delayed) else None


def recorded(history: jax.Array, amax: jax.Array) -> jax.Array:
    """The history after one step more.

    Args:
        history: float32 ``[..., length]``.
        amax: float32 ``[...]``, the largest magnitude of the step.
    """
    return jnp.roll(history, -1, axis=-1).at[..., 0].set(amax)


def largest_magnitude(x: jax.Array) -> jax.Array:
    """The largest finite magnitude of an array, float32; 0 where there is none."""
    magnitude = jnp.abs(x)
    finite = jnp.isfinite(x)
    return jnp.max(magnitude, initial=0, where=finite).astype(jnp.float32)
