"""Whether the GPU here has the instructions that the kernels for Hopper are made of."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax

from qpass_kernels.kernel import Kernel, Product

HOPPER = "9.0"
"""Compute capability of GPUs with asynchronous products of warpgroups; later ones have others."""


def for_hopper(kernel: Kernel) -> Kernel:
    """The kernel, which refuses products on other GPUs instead of failing to compile there."""
    return replace(kernel, supports=partial(_supports, kernel))


def _supports(kernel: Kernel, product: Product) -> str | None:
    return refusal() or kernel.supports(product)


def refusal() -> str | None:
    """Why no kernel runs here; None on Hopper, and where there is no GPU to lower for."""
    if jax.default_backend() != "gpu":
        return None
    found: Any = getattr(jax.devices()[0], "compute_capability", "unknown")
    return None if found == HOPPER else f"needs compute capability {HOPPER}; here it is {found}"
