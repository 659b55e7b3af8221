"""What a product shows of the channels of its activation."""

from collections.abc import Collection, Sequence
from typing import Any

import jax

from qpass.graph._jax import JaxprEqn
from qpass.graph.dimensions import dimensions, expert_axis
from qpass.numerics.channels import as_rows, by_channel
from qpass.numerics.statistics import State

PRODUCTS = frozenset({"dot_general", "ragged_dot_general"})
"""Primitives whose operands have channels."""


def gathered(
    eqn: JaxprEqn, weight: int, operands: Sequence[Any], x: jax.Array, kinds: Collection[str]
) -> dict[str, State]:
    """See `qpass.numerics.channels.by_channel`.

    Args:
        eqn: one of `PRODUCTS`.
        weight: which operand is the weight, 0 or 1.
        operands: all that the equation is given.
        x: the other one of the two, as an array.
        kinds: what to gather.
    """
    contract, batch = dimensions(eqn)
    sizes = operands[2] if expert_axis(eqn) is not None else None
    return by_channel(as_rows(x, batch[1 - weight], contract[1 - weight]), kinds, sizes)
