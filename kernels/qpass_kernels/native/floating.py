"""Products of float activations with codes (weight-only) by compiled code.

Codes are decoded in registers, or into a tile that stays in cache, so that the weight is read from
memory as codes and once. All is multiplied and added up in float32; a row of the left operand gives
the same bits alone, among others, and on any number of threads.

Measured on one core with AVX-512, by `[2048, 2048]`: one row reads 23 GB of int8 a second, or 15 of
int4 with groups of 32; four rows and more are bound by multiplications, 85 to 100 GFLOP/s for both.
With AVX2 19 and 7 GB, and 40 to 95 GFLOP/s.

Codes of two to four bits with a table are read as int4 are: one row by `[4096, 4096]` on two busy
cores took 1.6 ms for int4 in groups of 32, nf4 1.5, fp4 1.8, int2 1.9, int3 3.6, and float32 14.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_kernels import cpu_cost, reference
from qpass_kernels.cpu_codes import FP8
from qpass_kernels.kernel import CODES, Kernel, Product, dtype
from qpass_kernels.native.ragged import by_codes
from qpass_kernels.native.refusal import refusal
from qpass_kernels.stacks import alone, one_of

INT4 = np.array([*range(8), *range(-8, 0)], np.float32)
"""What the bit patterns of int4 stand for."""

KINDS = {4: "4 bits", 3: "3 bits", 2: "2 bits"}
"""What the library calls codes that have a table, by their bits."""

NO_MINIFLOAT = np.zeros(4, np.int32)

NO_BYTE = 128
"""Not a signed byte: where no code, or more than one, is NaN."""


def supports(product: Product) -> str | None:
    """Take every float lhs with codes of plain sizes, where the library is."""
    decoded = product.table is None and product.rhs not in CODES
    return refusal(
        product,
        (not product.weight_only, "quantized activations"),
        (decoded, "weight decoded beforehand"),
    )


def reads(product: Product) -> bool:
    """Whether codes with a table are read as they lie: no row of four-bit ones ends in a byte."""
    bits = product.code_bits
    odd = bits == 4 and not product.symbolic and product.k % 2
    return product.weight_only and bits in KINDS and not odd


def run_joined(
    products: Sequence[Product], lhs: Any, lhs_scale: Any, rights: Sequence[tuple], isa: str = ""
) -> tuple[Any, ...]:
    """Compute products that share their left operand, each with its own columns.

    Args:
        products: what is computed; they differ in `n` at most.
        lhs: floats `[B, M, K]`.
        lhs_scale: None.
        rights: for each a stack of codes `[S, B, N, K]` (those with a table see `Product.table`),
            its scales, float32 `[S, B, N, 1 or G]`, and which layer, int32; it is read in place.
        isa: "avx512", "avx2", "neon" or "portable"; "" for the fastest that the machine has.
    """
    del lhs_scale
    lhs = reference.sealed(lhs).astype(jnp.float32)
    product = products[0]
    operands, how = [], {}
    for stack, *rest in rights:
        codes, how = _codes(product, stack)
        operands += (codes, *rest)
    shapes = [jax.ShapeDtypeStruct((p.batch, p.m, p.n), jnp.float32) for p in products]
    group = np.int64(product.group if product.grouped else product.k)
    call = jax.ffi.ffi_call("QpassFloating", shapes)
    totals = call(lhs, *operands, group=group, isa=isa, **how)
    return tuple(reference.sealed(total.astype(dtype(product.out))) for total in totals)


run_stacked = one_of(run_joined)


def _codes(product: Product, stack: Any) -> tuple[Any, dict[str, Any]]:
    """Return codes that fill whole bytes, and how these are read.

    A custom call gets an array as it lies in memory, two int4 to a byte. Seen as bytes beforehand,
    XLA would write a copy of it: one row by int4 `[4096, 4096]` 0.9 -> 2.2 ms, e4m3 1.8 -> 12 ms.
    """
    if product.table is not None:
        return stack, _how(KINDS[product.code_bits], np.array(product.table, np.float32))
    if product.rhs in FP8:
        return stack, _how("minifloats", minifloat=_minifloat(product.rhs))
    if product.rhs == "int4" and product.k % 2:  # rows that do not end with a byte
        stack = stack.astype(jnp.int8)
    return stack, _how("4 bits" if stack.dtype == jnp.int4 else "int8")


def _how(codes: str, table: np.ndarray = INT4, minifloat: np.ndarray = NO_MINIFLOAT) -> dict:
    """The attributes of a call; a table of fewer than 16 numbers is repeated."""
    return {"codes": codes, "table": np.resize(table, 16), "minifloat": minifloat}


def _minifloat(name: str) -> np.ndarray:
    form = FP8[name]
    nan = NO_BYTE if form.nan is None else np.uint8(form.nan).astype(np.int8)
    return np.array([form.mantissa, form.bias, form.largest, nan], np.int32)


NATIVE_FLOAT = Kernel(
    "cpu-native-float",
    ("cpu",),
    supports,
    alone(run_stacked),
    run_stacked,
    run_joined=run_joined,
    reads=reads,
    local=True,
    ragged=by_codes(_codes, reads),
    meant_for=lambda product: product.weight_only,
    slow=cpu_cost.slow(cpu_cost.native_floating),
    nanoseconds=cpu_cost.nanoseconds(cpu_cost.native_floating),
)
