"""What a quantized ``dot_general`` is, from its equation and its scheme."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import jax

from qpass.graph.dimensions import Dims, remaining
from qpass.numerics import Quantizer
from qpass.numerics.casts import as_f32
from qpass_kernels import Kernel


@dataclass(frozen=True)
class Forms:
    """How products of one primitive are computed, whatever derivative they stand in.

    Attributes:
        floats: (spec, x, w, others) -> the product of floats, in the primitive's own layout; x for
            the activation, w for the weight, ``others`` the equation's operands after these two.
        quantized: (spec, x, w, others, fed) -> that of float x and quantized w.
    """

    floats: Callable[..., jax.Array]
    quantized: Callable[..., jax.Array]


class Derivative(Protocol):
    """How one operand's tangent is multiplied, where its transpose is no float product."""

    def tangent(
        self, forms: Forms, spec: DotSpec, t: jax.Array, y: Any, others: tuple, fed: dict
    ) -> jax.Array:
        """The product of the tangent ``t`` and the other operand ``y``."""
        ...


@dataclass(frozen=True)
class DotSpec:
    """A ``dot_general`` with a quantized weight.

    Attributes:
        dims: ``((lhs contract, rhs contract), (lhs batch, rhs batch))``.
        weight: which operand is the weight, 0 or 1.
        act: quantizer of the other operand; None keeps it float.
        out: dtype name of the result.
        precision: of the products for the gradients.
        kernels: the kernel table.
        sharding: of the result, where shardings are part of the types (explicit mesh axes).
        dlhs: the derivative by the activation; None: straight-through in float.
        drhs: by the weight.
        accumulate: dtype name of the sum that kernels hand over; None: that of the result.
    """

    dims: Dims
    weight: int
    act: Quantizer | None
    out: str
    precision: Any
    kernels: tuple[Kernel, ...]
    sharding: Any = None
    dlhs: Derivative | None = None
    drhs: Derivative | None = None
    accumulate: str | None = None

    @property
    def summed(self) -> Self:
        """What kernels compute: the same with the result in the dtype of the sum."""
        return replace(self, out=self.accumulate or self.out)

    def handed_over(self, out: jax.Array) -> jax.Array:
        """The result, from that of `summed`, which has really been rounded to its dtype."""
        return out if out.dtype == self.out else as_f32(out).astype(self.out)

    def free(self, side: int, ndim: int) -> tuple[int, ...]:
        """Axes of an operand of so many that are neither summed over nor shared with the other."""
        contract, batch = self.dims
        return remaining(ndim, (*contract[side], *batch[side]))

    def transposed(self, side: int, ndims: tuple[int, int]) -> tuple[Self, tuple[int, ...]]:
        """The product of the gradient with operand ``side``: the gradient of the other operand.

        Args:
            side: which operand is read; it stands on the right of the new product, as its weight.
            ndims: axes of the operand that the gradient is of, and of the one that is read.

        Returns:
            the product as JAX writes it, and the axes of the operand that the gradient is of in the
            order in which they come out.
        """
        contract, batch = self.dims
        t_free, y_free = self.free(1 - side, ndims[0]), self.free(side, ndims[1])
        lead = tuple(range(len(batch[0])))
        first = len(lead) + (0 if side == 0 else len(t_free))
        g_contract = tuple(range(first, first + len(y_free)))
        dims = (g_contract, y_free), (lead, batch[side])
        pairs = sorted(zip(contract[side], contract[1 - side], strict=True))
        order = (*batch[1 - side], *t_free, *(t for _, t in pairs))
        return replace(self, dims=dims, weight=1), order
