"""Dimension numbers of products, whichever primitive they are of."""

from collections.abc import Collection
from typing import Any

from jax.lax import ConvDimensionNumbers

from qpass.graph._jax import JaxprEqn

Axes = tuple[int, ...]
Dims = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]


def dimensions(eqn: JaxprEqn) -> Dims:
    """``((lhs contract, rhs contract), (lhs batch, rhs batch))`` of a product.

    Of a ragged one the axis of the right operand that counts experts is in neither list. A
    convolution sums over the features and over the spatial axes, as far as its window reaches.
    Of a look-up of rows, what lies in one row is contracted: it shares a scale.
    """
    if eqn.primitive.name == "gather":
        return (_row(eqn), ()), ((), ())
    ragged = eqn.params.get("ragged_dot_dimension_numbers")
    numbers: Any = ragged.dot_dimension_numbers if ragged else eqn.params["dimension_numbers"]
    if isinstance(numbers, ConvDimensionNumbers):
        (_, x, *xs), (_, w, *ws) = numbers.lhs_spec, numbers.rhs_spec
        return ((*xs, x), (*ws, w)), ((), ())
    (lc, rc), (lb, rb) = numbers
    ints = [tuple(int(d) for d in part) for part in (lc, rc, lb, rb)]
    return (ints[0], ints[1]), (ints[2], ints[3])


def expert_axis(eqn: JaxprEqn) -> int | None:
    """The axis of the right operand that counts experts, where rows of the left one are theirs.

    None of a plain product, and of ragged ones whose experts are summed over or batched.
    """
    ragged = eqn.params.get("ragged_dot_dimension_numbers")
    experts = ragged.rhs_group_dimensions if ragged else ()
    return int(experts[0]) if experts else None


def free_axes(eqn: JaxprEqn, side: int) -> Axes:
    """Axes of an operand that are neither summed over nor batched, and count no experts."""
    contract, batch = dimensions(eqn)
    expert = expert_axis(eqn) if side == 1 else None
    experts = () if expert is None else (expert,)
    return remaining(eqn.invars[side].aval.ndim, (*contract[side], *batch[side], *experts))


def told_apart(eqn: JaxprEqn, weight: int) -> tuple[Axes, Axes]:
    """Axes of a weight that what is known of its activation has, too.

    Those that tell rows apart, experts first and then batch axes, and those that are summed over.
    """
    contract, batch = dimensions(eqn)
    expert = expert_axis(eqn)
    experts = () if expert is None else (expert,)
    return (*experts, *batch[weight]), contract[weight]


def _row(eqn: JaxprEqn) -> Axes:
    """Axes of a table that a ``gather`` takes whole."""
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    gone = eqn.params["dimension_numbers"].collapsed_slice_dims
    return tuple(d for d, n in enumerate(shape) if n == sizes[d] and d not in gone)


def remaining(ndim: int, taken: Collection[int]) -> Axes:
    """The dimensions of an operand that are none of these, ascending."""
    return tuple(d for d in range(ndim) if d not in taken)
