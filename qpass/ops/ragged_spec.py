"""What a quantized ``ragged_dot_general`` is, from its equation and its scheme.

JAX has three of them. In the first mode the rows of the left operand are divided among experts; the
gradient of those rows is such a product too. In the second rows are summed over, those of each
expert by themselves: the gradient of experts. In the third the axis that is divided is a batch
axis, and the product a plain one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Self

from jax import lax

from qpass.graph._jax import JaxprEqn
from qpass.graph.dimensions import dimensions, free_axes
from qpass.graph.sites import Site
from qpass.numerics import Scheme
from qpass.ops.dot_op import dot_spec
from qpass.ops.dot_spec import DotSpec
from qpass.ops.op import Decided
from qpass.ops.sharded import explicit_sharding
from qpass_kernels import Kernel

LEFT = "its weight is the operand whose rows are sorted by expert"
BESIDE_ROWS = "more is summed over, or batched, than the rows that experts divide"
NESTED = "rows of experts inside of other rows"
NO_DERIVATIVE = "sums over rows that experts divide have no derivative in JAX"
SHARDED = "shardings are part of the types here"


@dataclass(frozen=True)
class RaggedSpec(DotSpec):
    """A ``ragged_dot_general`` with a quantized weight, in JAX's first mode or its second.

    The contraction is that of a plain product; in the first mode its right operand is the weight.

    Attributes:
        ragged: axis of the left operand that is divided among experts.
        expert: axis of the right operand that counts them; None in the second mode.
    """

    ragged: int = 0
    expert: int | None = None

    @property
    def of_experts(self) -> int:
        """The axis that counts experts, in the first mode."""
        assert self.expert is not None
        return self.expert

    @property
    def numbers(self) -> lax.RaggedDotDimensionNumbers:
        """As JAX has it."""
        experts = [] if self.expert is None else [self.expert]
        return lax.RaggedDotDimensionNumbers(self.dims, [self.ragged], experts)

    def free(self, side: int, ndim: int) -> tuple[int, ...]:
        """As of a plain product; the axis that counts experts is none of them."""
        return tuple(d for d in super().free(side, ndim) if side == 0 or d != self.expert)

    def transposed(self, side: int, ndims: tuple[int, int]) -> tuple[Self, tuple[int, ...]]:
        """In the first mode: by the experts one of the same mode, by the rows one of the second."""
        plain, order = super().transposed(side, ndims)
        rows = len(self.dims[1][0]) + self.free(0, ndims[1 - side]).index(self.ragged)
        if side == 1:
            return replace(plain, ragged=rows), order
        return replace(plain, ragged=rows, expert=None), (self.of_experts, *order)


def ragged_spec(
    decision: Decided, eqn: JaxprEqn, kernels: tuple[Kernel, ...]
) -> RaggedSpec | DotSpec:
    """The ragged product; a plain one where the experts' axis is a batch axis."""
    dot = dot_spec(decision, eqn, kernels)
    if _mode(eqn) == "batch":
        return dot
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (ragged,), experts = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    common = {field.name: getattr(dot, field.name) for field in fields(dot)}
    return RaggedSpec(**common, ragged=int(ragged), expert=int(experts[0]) if experts else None)


def why_not(site: Site) -> str | None:
    """Why a product cannot be quantized."""
    mode = _mode(site.eqn)
    if explicit_sharding(site.eqn.outvars[0].aval) is not None:
        return SHARDED
    if mode == "contracting":
        contract, batch = dimensions(site.eqn)
        return BESIDE_ROWS if batch[0] or len(contract[0]) > 1 else None
    if mode == "batch":
        return None
    if site.weight == 0 or site.cotangent == 1:
        return LEFT
    return NESTED if math.prod(_outer(site.eqn)) != 1 else None


def why_not_scheme(site: Site, scheme: Scheme) -> str | None:
    """Every scheme will do."""
    return None


def why_not_backward(site: Site, product: str) -> str | None:
    """Why a backward product cannot be quantized: what `why_not` says of it."""
    mode = _mode(site.eqn)
    if mode == "contracting":
        return NO_DERIVATIVE
    if product == "dlhs" or mode == "batch":
        return None
    _, batch = dimensions(site.eqn)
    return BESIDE_ROWS if batch[0] or len(free_axes(site.eqn, 0)) > 1 else None


def divides_rows(site: Site) -> bool:
    """Whether it is a ragged product of which experts divide the rows."""
    return site.op == "ragged_dot_general" and _mode(site.eqn) == "rows"


def _mode(eqn: JaxprEqn) -> str:
    ragged = int(eqn.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions[0])
    (contract, _), (batch, _) = dimensions(eqn)
    return "contracting" if ragged in contract else "batch" if ragged in batch else "rows"


def _outer(eqn: JaxprEqn) -> list[int]:
    """Sizes of the free axes of the left operand before the one that is divided."""
    ragged = int(eqn.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions[0])
    shape = eqn.invars[0].aval.shape
    return [shape[d] for d in free_axes(eqn, 0) if d < ragged]
