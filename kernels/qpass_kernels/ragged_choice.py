"""Choosing what computes a ragged product, from the table of kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

from qpass_kernels.kernel import Kernel, is_for
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct
from qpass_kernels.ragged_reference import one_expert


@dataclass(frozen=True)
class RaggedSelection:
    """What was chosen for a ragged product.

    Attributes:
        ragged: what computes it.
        refused: those before it that refused, with their reasons.
    """

    ragged: RaggedMatmul
    refused: tuple[tuple[str, str], ...]


def select_ragged(
    kernels: Sequence[Kernel], platform: str, product: RaggedProduct
) -> RaggedSelection:
    """Take the first of the platform that supports the product.

    Raises:
        ValueError: nothing in the table takes it.
    """
    dense = one_expert(product, product.m)
    refused = []
    for ragged in (k.ragged for k in kernels if k.ragged and is_for(k, platform, dense)):
        reason = ragged.supports(product)
        if reason is None:
            return RaggedSelection(ragged, tuple(refused))
        refused.append((ragged.name, reason))
    raise ValueError(
        f"no kernel for {product} on {platform!r}: "
        + ("; ".join(f"{name}: {reason}" for name, reason in refused) or "none for this platform")
        + ". End the table with qpass_kernels.REFERENCE, which takes every product."
    )
