"""The product as Qwix 0.1.8 computes it, as a kernel: what is left of a difference is the operands.

It rounds to the result's dtype after each step, and where the activation is a float or a group is
short it multiplies dequantized operands. qpass rounds once, at the end; see `docs/peers.md`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qpass_kernels import Kernel, Product
from qpass_kernels.kernel import dtype

SHORT = 128


def run(einsum: bool, product: Product, lhs: Any, lhs_scale: Any, rhs: Any, rhs_scale: Any) -> Any:
    """Compute `[B, M, N]`; groups divide K, as Qwix asks. Its einsum takes the right side first."""
    out = dtype(product.out)
    if lhs_scale is None or (product.grouped and product.group < SHORT):
        values = [_decoded(rhs, rhs_scale, out)]
        values.insert(0, lhs if lhs_scale is None else _decoded(lhs, lhs_scale, out))
        return jax.lax.map(lambda pair: _plain(*pair), tuple(values))
    count = "int32" if product.integer else out
    parts = [jnp.reshape(x, (*x.shape[:2], product.groups, -1)) for x in (lhs, rhs)]
    dims = (((3,), (3,)), ((0, 2), (0, 2)))
    total = lax.dot_general(*parts, dims, preferred_element_type=count)  # [B, G, M, N]
    factors = (jnp.moveaxis(lhs_scale, 2, 1)[..., None], jnp.moveaxis(rhs_scale, 2, 1)[:, :, None])
    for factor in reversed(factors) if einsum else factors:
        total = total * factor.astype(out)
    return (jnp.sum(total, 1) if product.grouped else total[:, 0]).astype(out)


def _decoded(codes: Any, scale: Any, out: Any) -> Any:
    k = codes.shape[2]
    return codes.astype(out) * jnp.repeat(scale, k // scale.shape[2], 2).astype(out)


def _plain(x: Any, w: Any) -> Any:
    # The barrier: as an operand [K, N] in memory, since the order of a float sum depends on it.
    return x @ lax.optimization_barrier(w.T)


QWIX_PRODUCT = Kernel("qwix", ("cpu",), lambda product: None, partial(run, False))
QWIX_EINSUM = Kernel("qwix einsum", ("cpu",), lambda product: None, partial(run, True))
