"""Looking into programs, by a walk that knows no primitive and shares nothing with qpass."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as jex


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of the jaxprs inside it, once for each place that calls it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from equations(value)


def count(jaxpr: Any, *primitives: str) -> int:
    """How many equations of these primitives there are."""
    return sum(eqn.primitive.name in primitives for eqn in equations(jaxpr))


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jex.Jaxpr)
