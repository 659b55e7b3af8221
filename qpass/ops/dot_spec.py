"""What a quantized ``dot_general`` is, from its equation and its scheme."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax

from qpass.numerics import Quantizer
from qpass.ops.axes_of_product import Dims
from qpass_kernels import Kernel


class Derivative(Protocol):
    """How one operand's tangent is multiplied, where its transpose is no float product."""

    def tangent(self, spec: "DotSpec", t: jax.Array, y: Any, fed: dict) -> jax.Array:
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
