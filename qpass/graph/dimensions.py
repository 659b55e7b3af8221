"""Dimension numbers of products, whichever primitive they are of."""

from typing import Any

from qpass.graph._jax import JaxprEqn

Axes = tuple[int, ...]
Dims = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]


def dimensions(eqn: JaxprEqn) -> Dims:
    """``((lhs contract, rhs contract), (lhs batch, rhs batch))`` of a plain or ragged product.

    Of a ragged one the axis of the right operand that counts experts is in neither list.
    """
    ragged = eqn.params.get("ragged_dot_dimension_numbers")
    numbers: Any = ragged.dot_dimension_numbers if ragged else eqn.params["dimension_numbers"]
    (lc, rc), (lb, rb) = numbers
    ints = [tuple(int(d) for d in part) for part in (lc, rc, lb, rb)]
    return (ints[0], ints[1]), (ints[2], ints[3])
