"""Looking into programs."""

from collections.abc import Iterator
from typing import Any

import jax.extend.core as jex


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of the jaxprs inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, jex.Jaxpr):
                    yield from equations(inner)


def count(jaxpr: Any, primitive: str) -> int:
    """How many equations of this primitive there are."""
    return sum(eqn.primitive.name == primitive for eqn in equations(jaxpr))
