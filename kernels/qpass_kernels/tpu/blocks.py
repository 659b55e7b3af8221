"""Block sizes of the TPU kernels: the table of defaults and candidates, and what fits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qpass_kernels.kernel import Product, dtype
from qpass_kernels.tpu.chip import MB, Chip

LANES, SUBLANES = 128, 8
Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Config:
    """How a product is cut.

    A block that reaches over an edge of M or N computes what is never stored; over that of K, it is
    masked. So nothing is padded.

    Attributes:
        m, n, k: a block of lhs is `[m, k]`, one of the weight `[n, k]`, one of the result `[m, n]`.
            Each is a whole dimension or aligned.
        before: whether group scales multiply the weight before the product; otherwise they multiply
            what comes of each group.
    """

    m: int
    n: int
    k: int
    before: bool = False


def fitted(product: Product, sizes: Sequence[Sizes], before: bool, chip: Chip) -> list[Config]:
    """Cut the sizes down to the product; drop those that its groups or the chip's memory forbid."""
    cut = (_cut(product, size, before) for size in sizes)
    fits = (c for c in cut if c and vmem(product, c) <= chip.vmem * 7 // 8)
    return list(dict.fromkeys(fits))


def unit(product: Product) -> int:
    """Smallest aligned step along K that holds whole groups."""
    return math.lcm(LANES, product.group) if product.grouped else LANES


def _cut(product: Product, sizes: Sizes, before: bool) -> Config | None:
    m, n, limit = sizes
    k = _along_k(product, limit)
    return None if k is None else Config(min(m, product.m), min(n, product.n), k, before)


def _along_k(product: Product, limit: int) -> int | None:
    """Whole K if it is small enough, else even steps; within a group that is longer than that."""
    whole_groups = not product.grouped or product.k % product.group == 0
    if product.k <= limit and whole_groups:
        return product.k
    step = unit(product)
    if step <= limit:
        steps = -(-product.k // (limit // step * step))
        return _up(-(-product.k // steps), step)
    parts = range(limit // LANES * LANES, 0, -LANES)
    return next((k for k in parts if product.group % k == 0), None)


def vmem(product: Product, config: Config) -> int:
    """About as many bytes as a core needs: blocks twice, for the pipeline, and what is between."""
    m, n, k = _up(config.m, SUBLANES), _up(config.n, LANES), _up(config.k, LANES)
    codes = (m * k * _bits(product.lhs) + n * k * _bits(product.rhs)) // 8
    groups = [side == "group" for side in (product.lhs_scale, product.rhs_scale)]
    lanes = 4 * _up(product.groups, LANES)
    scales = sum(rows * (lanes if own else 4) for rows, own in zip((m, n), groups, strict=True))
    beside = len(product.epilogue.beside)
    result = (1 + beside) * m * n * _bits(product.out) // 8
    sums = (3 + bool(product.epilogue)) * 4 * m * n
    turned = groups[1] * n * (lanes + 4 * SUBLANES * -(-product.k // config.k))
    part = min(config.k, product.group) if product.grouped and not config.before else config.k
    wide = 10 if product.lhs == "float32" else 2  # as float32, and as three of bfloat16
    decoded = n * part * (wide + 4 if config.before else wide + 1) + m * part * wide
    return 2 * (codes + scales + result) + sums + turned + decoded + MB


def _bits(name: str) -> int:
    return 4 if name == "int4" else 8 * dtype(name).itemsize


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
