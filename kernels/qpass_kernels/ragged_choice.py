"""Choosing what computes a ragged product, from the table of kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

from qpass_kernels.kernel import Kernel, runs_on
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct


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
    here = (k.ragged for k in kernels if runs_on(k, platform))
    refused = []
    for ragged in filter(None, here):
        reason = ragged.supports(product)
        if reason is None:
            return RaggedSelection(ragged, tuple(refused))
        refused.append((ragged.name, reason))
    raise ValueError(
        f"no kernel for {product} on {platform!r}: "
        + ("; ".join(f"{name}: {reason}" for name, reason in refused) or "none for this platform")
        + ". End the table with qpass_kernels.REFERENCE, which takes every product."
    )
