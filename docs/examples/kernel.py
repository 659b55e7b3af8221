"""A kernel of your own: a weight-only product that dequantizes the whole weight first."""

import jax
import jax.numpy as jnp

import qpass
from qpass_kernels import KERNELS, Kernel


def supports(product):
    """Take small weight-only products; say why not otherwise."""
    if not product.weight_only:
        return "quantized activations"
    if product.rhs_scale != "row":
        return "grouped scales"
    if product.symbolic or product.n * product.k > 2**16:
        return "larger than 64k weights"
    return None


def run(product, lhs, lhs_scale, rhs, rhs_scale):
    """``[B, M, K] x [B, N, K] -> [B, M, N]``."""
    weight = rhs.astype(jnp.float32) * rhs_scale
    out = jnp.einsum("bmk,bnk->bmn", lhs.astype(jnp.float32), weight)
    return out.astype(product.out)


MINE = Kernel(name="small", platforms=("cpu",), supports=supports, run=run)


def layer(params, x):
    """One layer; ``x [M, 64]``."""
    return x @ params["kernel"]


params = {"kernel": jax.random.normal(jax.random.key(0), (64, 32))}
x = jnp.ones((4, 64))
rules = [qpass.Rule(weight="int8")]

q = qpass.transform(layer, rules, kernels=(MINE, *KERNELS))
(row,) = q.plan(params, x).rows
assert row.kernel == "small"

built_in = qpass.transform(layer, rules)
assert jnp.allclose(q(params, x), built_in(params, x), rtol=1e-5, atol=1e-5)

grouped = qpass.transform(layer, [qpass.Rule(weight="int8 g16")], kernels=(MINE, *KERNELS))
(row,) = grouped.plan(params, x).rows
assert ("small", "grouped scales") in row.refused
