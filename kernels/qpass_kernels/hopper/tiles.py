"""Which ways of cutting up a product of 8-bit codes are worth trying, the best guess first."""

from dataclasses import replace

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.hopper.device import MULTIPROCESSORS
from qpass_kernels.hopper.work import Config, promoted
from qpass_kernels.kernel import Product, first_reason

FEW = 64  # rows of lhs up to which the weight is the left side
LEAST_STEPS = 4  # tiles of K that a block should have to itself


def refused(product: Product) -> str | None:
    """Say why copies cannot be made of a product's operands as they are; None where they can."""
    return first_reason(
        needs_numbers(product),
        (product.k % 32, f"k = {product.k} is no multiple of 32: every call would copy the weight"),
        (
            product.n % 8,
            f"n = {product.n} is no multiple of 8: rows of the result would not be aligned",
        ),
    )


def configs(product: Product, k: int) -> tuple[Config, ...]:
    """List ways to cut a product up, the default first.

    Args:
        product: one that is not `refused`.
        k: tile of K.
    """
    few = product.m <= FEW
    found = _for_few(product, k) if few else _for_many(product, k)
    return tuple(dict.fromkeys(found))


def _for_few(product: Product, k: int) -> list[Config]:
    """Cut the weight finely: what counts is that all multiprocessors read it."""
    # scales of groups are copied 32 at a time
    sizes = (32, 64) if product.lhs_scale == "group" else (8, 16, 32, 64)
    m = next(size for size in sizes if size >= product.m)

    def config(n: int, steps: int, split: int) -> Config:
        return Config(m, n, k, steps, turned=True, split=split)

    best = config(64, 8, _split(product, k, product.n, 64))
    others = [
        config(n, steps, split)
        for n, steps in ((64, 8), (128, 6))
        for split in (1, 2, 4, 8)
        if split * LEAST_STEPS * k <= product.k or split == 1
    ]
    return [best, *others]


def _for_many(product: Product, k: int) -> list[Config]:
    """Take the largest tile that gives every multiprocessor one; the largest reads least."""
    large = Config(128, 256, k, slots=1)
    square = Config(128, 128, k, steps=5)
    small = Config(64, 128, k, steps=6)
    order = [large, square, small] if _has_room(product) else [square, small]
    best = next((c for c in order if _count(product, c) >= MULTIPROCESSORS), small)
    split = _split(product, k, product.n, best.n, -(-product.m // best.m))
    bands = [replace(order[0], band=band) for band in (4, 16)]
    return [replace(best, split=split), *order, *bands, *_pairs(product, large, square)]


def _pairs(product: Product, large: Config, square: Config) -> list[Config]:
    """Tiles that two blocks may take together: to multicast takes registers too."""
    if product.grouped or product.m <= square.m:
        return []
    found = [large, square] if product.integer else [square]
    return [replace(config, pairs=True) for config in found]


def _has_room(product: Product) -> bool:
    """Whether 128 sums a thread leave registers.

    Not for scales both of groups and of rows, nor for an activation after sums that are added up in
    float32 beside those of the tensor core.
    """
    follows = promoted(product) and product.epilogue.activation != "none"
    return product.lhs_scale == product.rhs_scale and not follows


def _count(product: Product, config: Config) -> int:
    return -(-product.m // config.m) * -(-product.n // config.n)


def _split(product: Product, k: int, n: int, tile: int, rows: int = 1) -> int:
    """Split K so that no multiprocessor is idle, but none has less than a few tiles."""
    idle = MULTIPROCESSORS // (rows * -(-n // tile))
    return max(1, min(idle, product.k // (LEAST_STEPS * k)))
