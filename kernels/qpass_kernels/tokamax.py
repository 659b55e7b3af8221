"""tokamax's ragged product of 16-bit floats and a weight, for whoever has that package.

It is in no table by itself: a package of a gigabyte whose kernels are changing is an option.

    qpass.transform(fn, rules, kernels=(TOKAMAX, *KERNELS))
"""

from importlib.util import find_spec
from typing import Any

import jax.numpy as jnp

from qpass_kernels.contraction import needs_numbers
from qpass_kernels.kernel import Kernel, Product, dtype, first_reason
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct
from qpass_kernels.ragged_reference import owners

LEFT = ("bfloat16", "float16")
RIGHT = ("int4", "int8")
MISSING = "needs tokamax and qwix, which are not installed"


def supports(product: RaggedProduct) -> str | None:
    """Take weights of codes beside floats of 16 bits, in whole groups, where tokamax is."""
    tail = product.grouped and product.k % product.group
    pair = product.lhs in LEFT and product.rhs in RIGHT
    return first_reason(
        (find_spec("tokamax") is None or find_spec("qwix") is None, MISSING),
        needs_numbers(product),
        (not pair, f"{product.lhs} x {product.rhs}"),
        (tail, f"k = {product.k} is no multiple of the group {product.group}"),
    )


def run(
    product: RaggedProduct,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    group_sizes: Any,
) -> Any:
    """Compute the product by whatever tokamax takes here; rows without an expert are zero.

    The weight is decoded in the type of its scales, float32, and may be rounded to that of `lhs`.
    """
    import qwix  # pyright: ignore[reportMissingImports]
    import tokamax  # pyright: ignore[reportMissingImports]

    del lhs_scale  # floats have none
    codes, scale = jnp.swapaxes(rhs, 1, 2), jnp.swapaxes(rhs_scale, 1, 2)
    weight = qwix.QArray(qvalue=codes, scale=scale, zero_point=None, qtype=codes.dtype)
    kind = dtype(product.out)
    out = tokamax.ragged_dot(lhs, weight, group_sizes, preferred_element_type=kind)
    is_owned = owners(group_sizes, product.m)[:, None] < product.experts
    return jnp.where(is_owned, out, jnp.zeros((), kind))


def _no_product(product: Product) -> str | None:
    return "takes ragged products only"


TOKAMAX = Kernel(
    "tokamax",
    ("cuda", "tpu"),
    supports=_no_product,
    run=lambda *operands: None,
    ragged=RaggedMatmul("tokamax", supports, run, skips=True),
)
