"""Ragged products by compiled code: the rows of each expert by its weight, where that lies."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_kernels import reference
from qpass_kernels.kernel import CODES, Product, dtype
from qpass_kernels.native.refusal import refusal
from qpass_kernels.ragged import RaggedMatmul, RaggedProduct
from qpass_kernels.ragged_reference import one_expert


def _supports_integer(product: RaggedProduct) -> str | None:
    """Take products of integer codes, where the library is."""
    return refusal(
        product,
        (not product.integer, "not a product of integer codes"),
        (not reference.is_safe(product.group), "the sum of a group may not fit in int32"),
    )


def by_codes(
    codes_of: Callable[..., tuple[Any, dict[str, Any]]], reads: Callable[[Product], bool]
) -> RaggedMatmul:
    """The ragged product of floats by codes.

    Args:
        codes_of: (Product, stack) -> the codes as compiled code gets them, and how it reads them.
        reads: the kernel's `Kernel.reads`.
    """
    return RaggedMatmul(
        "cpu-native-float",
        _supports_floating,
        partial(_run_floating, codes_of),
        reads=lambda product: reads(one_expert(product, product.m)),
        skips=True,
    )


def _supports_floating(product: RaggedProduct) -> str | None:
    """Take floats by codes, where the library is."""
    return refusal(
        product,
        (not product.weight_only, "quantized activations"),
        (product.table is None and product.rhs not in CODES, "weight decoded beforehand"),
    )


def run_integer(
    product: RaggedProduct,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    group_sizes: Any,
    isa: str = "",
) -> Any:
    """Compute the product of the reference; `isa` as of `qpass_kernels.native.integer`."""
    group = product.group if product.grouped else product.k
    if rhs.dtype == jnp.int4 and (product.k % 2 or group % 2):  # groups that end within a byte
        rhs = rhs.astype(jnp.int8)
    call = _call("QpassRaggedInteger", product, product.out)
    stack = (rhs[:, None], rhs_scale[:, None], group_sizes)
    codes = lhs.astype(jnp.int8)[None]
    return call(codes, lhs_scale[None], *stack, group=np.int64(group), isa=isa)[0]


def _run_floating(
    codes_of: Callable[..., tuple[Any, dict[str, Any]]],
    product: RaggedProduct,
    lhs: Any,
    lhs_scale: Any,
    rhs: Any,
    rhs_scale: Any,
    group_sizes: Any,
    isa: str = "",
) -> Any:
    """Compute the product of floats and codes; `isa` as of `qpass_kernels.native.floating`."""
    del lhs_scale
    lhs = reference.sealed(lhs).astype(jnp.float32)[None]
    codes, how = codes_of(one_expert(product, product.m), rhs[:, None])
    group = np.int64(product.group if product.grouped else product.k)
    call = _call("QpassRaggedFloating", product, "float32")
    total = call(lhs, codes, rhs_scale[:, None], group_sizes, group=group, isa=isa, **how)
    return reference.sealed(total[0].astype(dtype(product.out)))


def _call(target: str, product: RaggedProduct, out: str) -> Any:
    shape = jax.ShapeDtypeStruct((1, product.m, product.n), dtype(out))
    return jax.ffi.ffi_call(target, shape)


NATIVE_RAGGED = RaggedMatmul("cpu-native-int", _supports_integer, run_integer, skips=True)
