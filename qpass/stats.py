"""What was captured: statistics of the operands of a program's products, by name.

>>> stats = q.calibrate(params, batches, gather=("range", "square"))  # doctest: +SKIP
>>> stats.of("layers/mlp/up/dot_general.0").square                    # doctest: +SKIP
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qpass.errors import CalibrationError
from qpass.numerics.statistics import State, merge
from qpass.suggest import did_you_mean, shortened

DECAY = 0.9


@partial(jax.tree_util.register_dataclass, data_fields=["states"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Stats(Mapping[str, State]):
    """Statistics by name of the operand; a pytree of float32 arrays, and a mapping.

    Attributes:
        states: for each name a dict of arrays (`qpass.numerics.statistics`). Inside of scans they
            have leading axes, one entry for each iteration.
    """

    states: dict[str, State]

    def __getitem__(self, name: str) -> State:
        return self.states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)

    def of(self, site: str, operand: str = "act") -> "Gathered":
        """What is known of one operand of a site.

        Args:
            site: the site's id, as the plan has it.
            operand: ``"act"``; ``"lhs"`` or ``"rhs"`` in a product of two activations.

        Raises:
            CalibrationError: nothing was captured there; the message names the nearest.
        """
        name = site if operand == "act" else f"{site}:{operand}"
        if name not in self.states:
            meant = did_you_mean(name, self.states)
            raise CalibrationError(f"ask for what was captured; {name!r} was not: {meant}")
        return Gathered(name, self.states[name])


@dataclass(frozen=True, eq=False)
class Gathered:
    """What was gathered of the activation of one site, by channel.

    A channel is an index of the axes that are summed over, flattened to K in the order of the
    product's dimension numbers. In front of K there is an axis for each scan around the site, one
    for the experts of a ragged product, and one for each batch axis of the product: ``...`` below,
    ``[layers]`` as a rule.

    Attributes:
        name: of the operand.
        state: all fields.
    """

    name: str
    state: State

    @property
    def count(self) -> jax.Array:
        """How many rows were seen: float32 ``[layers]``, without batch axes."""
        return self._field("rows", "square")

    @property
    def square(self) -> jax.Array:
        """The mean of ``x ** 2``: float32 ``[..., K]``; 0 where no row was seen."""
        squares, rows = self._field("squares", "square"), self.count
        rows = jnp.expand_dims(rows, range(rows.ndim - squares.ndim, 0))
        return squares / jnp.maximum(rows, 1)

    @property
    def absmax(self) -> jax.Array:
        """The greatest magnitude: float32 ``[..., K]``."""
        return self._field("absmax", "absmax")

    @property
    def hessian(self) -> jax.Array | np.ndarray:
        """The sum of ``x x'`` over rows: float32 ``[..., K, K]``; `calibrate` has NumPy's."""
        return self._field("hessian", "hessian")

    def _field(self, field: str, kind: str) -> Any:
        if field not in self.state:
            raise CalibrationError(
                f"gather what is asked for, as q.calibrate(..., gather=({kind!r},)): nothing was "
                f"kept by channel of {self.name}. (Nothing is where no weight is read, and in a "
                "shard_map.)"
            )
        return self.state[field]


def unseen_experts(stats: Mapping[str, State]) -> dict[str, np.ndarray]:
    """The experts that no row reached while statistics were captured.

    The range of activations is one for all experts, so these have a valid one, but nothing is known
    of the rows that they will see.

    Returns:
        for each site of a mixture of experts with any, by name, their numbers ``[count]``; inside
        of scans ``[count, loops + 1]``, each with the iteration before it.
    """
    rows = {name: np.asarray(s["experts"]) for name, s in stats.items() if "experts" in s}
    found = {name: np.argwhere(seen == 0) for name, seen in rows.items()}
    return {name: at[:, 0] if rows[name].ndim == 1 else at for name, at in found.items() if len(at)}


def update_stats(
    stats: Mapping[str, State] | None, batch: Mapping[str, State], decay: float = DECAY
) -> Stats:
    """The statistics after another batch. Pure; also merges the statistics of several batches.

    Sums, counts and extremes do not depend on how batches are cut: statistics of the parts of a
    data set, captured one by one or on several machines, merge to those of all of it.

    Args:
        stats: those so far; None for none.
        batch: those of the batch (or batches) that came later.
        decay: what the weight of a batch in the moving average falls by with each later one.

    Raises:
        CalibrationError: a site has other shapes in the two, as with another number of layers, or
            other fields.
    """
    if stats is None:
        return Stats(dict(batch))
    _check_alike(stats, batch)
    both = {name: merge(stats[name], batch[name], decay) for name in stats if name in batch}
    return Stats({**stats, **batch, **both})


def _check_alike(stats: Mapping[str, State], batch: Mapping[str, State]) -> None:
    def shapes(state: State) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in state.items()}

    differ = [n for n in batch if n in stats and shapes(batch[n]) != shapes(stats[n])]
    if differ:
        raise CalibrationError(
            f"give statistics of the same program, with the same gather=: those given have other "
            f"fields or shapes for {shortened(differ, 5)} than this call. Capture anew, with "
            "stats=None."
        )


def unseen(stats: Mapping[str, State]) -> list[str]:
    """The names at which an iteration never saw a value; empty where counts are traced."""
    return [name for name, state in stats.items() if _unseen(state["count"])]


def _unseen(count: Any) -> bool:
    return not isinstance(count, Tracer) and bool(np.any(np.asarray(count) == 0))


def save_stats(path: str | Path, stats: Mapping[str, State]) -> None:
    """Write statistics to an ``.npz`` file; entries are called ``<name of the site>/<field>``."""
    with Path(path).open("wb") as file:
        np.savez(file, **_flat(stats))


def _flat(stats: Mapping[str, State]) -> dict[str, Any]:
    pairs = ((name, *entry) for name, state in stats.items() for entry in state.items())
    return {f"{name}/{field}": np.asarray(array) for name, field, array in pairs}


def load_stats(path: str | Path) -> Stats:
    """Statistics from a file that `save_stats` wrote; Hessians as NumPy arrays, on the host."""
    states: dict[str, State] = {}
    with np.load(path) as file:
        for key in file.files:
            name, _, field = key.rpartition("/")
            array = file[key] if field == "hessian" else jnp.asarray(file[key])
            states.setdefault(name, {})[field] = array
    return Stats(states)
