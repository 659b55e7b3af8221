"""Choosing what computes a ragged product, from the table of kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

from qpass_kernels.kernel import Kernel, first_of, is_for
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct
from qpass_kernels.ragged_reference import one_expert


@dataclass(frozen=True)
class RaggedSelection:
    """What was chosen for a ragged product.

    Attributes:
        ragged: what computes it.
        refused: those before it that refused, with their reasons.
        product: what it is asked for: without a table where it does not read that.
    """

    ragged: RaggedMatmul
    refused: tuple[tuple[str, str], ...]
    product: RaggedProduct


def select_ragged(
    kernels: Sequence[Kernel], platform: str, product: RaggedProduct
) -> RaggedSelection:
    """Take the first of the platform that supports the product.

    Raises:
        ValueError: nothing in the table takes it.
    """
    dense = one_expert(product, product.m)
    there = (k.ragged for k in kernels if k.ragged and is_for(k, platform, dense))
    pairs = ((r, product if r.reads(product) else product.decoded) for r in there)
    return RaggedSelection(*first_of(pairs, platform, product))
