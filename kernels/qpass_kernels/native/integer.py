"""Products of integer codes by compiled code: exact in int32 within a group.

Up to eight rows are multiplied by the weight where it lies, and ask for what they read next while
they multiply: they are bound by reading memory. For more rows, or for groups shorter than 32 for
each row, the weight passes through a panel that stays in cache. Results have the same bits for a
row alone and among others, on any number of threads and with any instruction set.

Measured with AVX-512 VNNI, int8 `[4096, 4096]`: one row 22 GB/s out of memory with one thread and
37 with two; 128 rows 170 billion products of codes a second with one thread, 150 with groups of
128, and 80 with AVX2.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qpass_kernels import cpu_cost, reference
from qpass_kernels.kernel import Kernel, Product, dtype
from qpass_kernels.native.ragged import NATIVE_RAGGED
from qpass_kernels.native.refusal import refusal
from qpass_kernels.native.rows import NATIVE_ROWS
from qpass_kernels.stacks import alone, one_of


def supports(product: Product) -> str | None:
    """Take every product of integer codes whose sizes are numbers, where the library is."""
    return refusal(
        product,
        (not product.integer, "not a product of integer codes"),
        (not reference.is_safe(product.group), "the sum of a group may not fit in int32"),
    )


def run_joined(
    products: Sequence[Product], lhs: Any, lhs_scale: Any, rights: Sequence[tuple], isa: str = ""
) -> tuple[Any, ...]:
    """Compute products of the reference that share their left operand, each with its own columns.

    Args:
        products: what is computed; they differ in `n` at most.
        lhs: integer codes `[B, M, K]`.
        lhs_scale: float32 `[B, M, 1 or G]`.
        rights: for each a stack of integer codes `[S, B, N, K]`, its scales, float32 `[S, B, N, 1
            or G]`, and which layer, int32; it is read in place.
        isa: "vnni", "avx2", "neondot", "neon" or "portable"; "" for the fastest there is.
    """
    product = products[0]
    shapes = [jax.ShapeDtypeStruct((p.batch, p.m, p.n), dtype(p.out)) for p in products]
    group = product.group if product.grouped else product.k
    # A custom call gets int4 as it lies in memory: two to a byte, low half first.
    cut = product.k % 2 or group % 2  # groups that end within a byte
    codes = [c.astype(jnp.int8) if cut and c.dtype == jnp.int4 else c for c, *_ in rights]
    operands = [x for c, (_, *rest) in zip(codes, rights, strict=True) for x in (c, *rest)]
    call = jax.ffi.ffi_call("QpassInteger", shapes)
    return tuple(call(lhs.astype(jnp.int8), lhs_scale, *operands, group=np.int64(group), isa=isa))


run_stacked = one_of(run_joined)

NATIVE_INT = Kernel(
    "cpu-native-int",
    ("cpu",),
    supports,
    alone(run_stacked),
    run_stacked,
    run_joined=run_joined,
    local=True,
    rows=NATIVE_ROWS,
    ragged=NATIVE_RAGGED,
    meant_for=lambda product: product.integer,
    slow=cpu_cost.slow(cpu_cost.native_integer),
    nanoseconds=cpu_cost.nanoseconds(cpu_cost.native_integer),
)
