"""The GPU that the kernels for Hopper are made for, and whether it is the one here."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax

from qpass_kernels.contraction import Contraction

HOPPER = "9.0"
"""Compute capability of GPUs with asynchronous products of warpgroups; later ones have others."""

MULTIPROCESSORS = 132
"""Those of an H100 or H200: programs that run at the same time, where each takes one."""

EIGHT_BITS = ("int8", "float8_e4m3fn", "float8_e5m2")


def are_codes(product: Contraction) -> bool:
    """Whether the tensor core multiplies the operands as they are: 8-bit codes of one kind."""
    both = (product.lhs, product.rhs)
    return all(x in EIGHT_BITS for x in both) and ("int8" in both) == product.integer


def on_hopper[P](supports: Callable[[P], str | None]) -> Callable[[P], str | None]:
    """The same, which refuses products on other GPUs instead of failing to compile there."""

    @wraps(supports)
    def checked(product: P) -> str | None:
        return refusal() or supports(product)

    return checked


def refusal() -> str | None:
    """Why no kernel runs here; None on Hopper, and where there is no GPU to lower for."""
    if jax.default_backend() != "gpu":
        return None
    found: Any = getattr(jax.devices()[0], "compute_capability", "unknown")
    return None if found == HOPPER else f"needs compute capability {HOPPER}; here it is {found}"
