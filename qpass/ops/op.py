"""What an operation is to the rewriter and to the plan: one value for each primitive.

A site is quantized by the `Op` that `qpass.ops.table` has for its primitive. What is common to all
of them is done outside: finding the weight, quantizing it where it is not stored, gradients of the
parameters, feeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from qpass.graph._jax import JaxprEqn
from qpass.graph.sites import Site
from qpass.numerics import Scheme
from qpass_kernels import Kernel


class Decided(Protocol):
    """What is decided at a site: the quantizers, and which operand is the weight."""

    @property
    def scheme(self) -> Scheme:
        """Quantizers of weight and activation."""
        ...

    @property
    def weight(self) -> int:
        """0 or 1."""
        ...


@dataclass(frozen=True)
class Ran:
    """What runs a quantized site: which kernels were refused, what it does not get as it is.

    Attributes:
        kernel: name of the one that is taken.
        refused: pairs of name and reason, of those before it.
        slow: what the plan says where it may be slower than float.
        told: what else is done to the operands, in words.
        nanoseconds: what it is expected to take, and what float32 would; None where nobody knows.
    """

    kernel: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    slow: str = ""
    told: tuple[str, ...] = ()
    nanoseconds: tuple[float, float] | None = None


def no_backward(site: Site, product: str) -> str:
    """For `Op.why_not_backward`: none can."""
    return f"there is no quantized form of the backward products of {site.op}"


@dataclass(frozen=True)
class Op:
    """How products of one primitive are quantized.

    Attributes:
        name: the primitive's.
        why_not: Site -> why no rule can quantize it, None where one can; asked after what all
            products have in common: dtypes, sizes, something to contract.
        why_not_scheme: (Site, Scheme) -> why not with these quantizers.
        spec: (decision, equation, kernels) -> what the two below need to know of the equation:
            hashable, equal for equal work.
        run: (spec, x, w, others, fed) -> the result. x is the float activation, w the weight as a
            `QTensor` or a layer of one, ``others`` the equation's operands after these two.
        ran: (spec, x, w, platform) -> `Ran`, from shapes and dtypes alone.
        why_not_backward: (Site, "dlhs" or "drhs") -> why that backward product of a forward one
            stays float, None where it can be quantized.
    """

    name: str
    why_not: Callable[[Site], str | None]
    why_not_scheme: Callable[[Site, Scheme], str | None]
    spec: Callable[[Decided, JaxprEqn, tuple[Kernel, ...]], Any]
    run: Callable[..., Any]
    ran: Callable[..., Ran]
    why_not_backward: Callable[[Site, str], str | None] = no_backward
