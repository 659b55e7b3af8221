"""The float64 oracle of ragged products, and random operands for them."""

import jax.numpy as jnp
import numpy as np

from qpass_kernels import RaggedProduct
from qpass_kernels.kernel import CODES
from tests.kernels import oracle


def ragged(m, n, k, experts, lhs, rhs, *, out="float32", group=None, lhs_group=False):
    """A RaggedProduct; `group` makes the right scales grouped, `lhs_group` the left ones too."""
    lhs_scale = ("group" if lhs_group and group else "row") if lhs in CODES else "none"
    rhs_scale = "group" if group else "row"
    return RaggedProduct(m, n, k, experts, lhs, rhs, out, group or k, lhs_scale, rhs_scale)


def operands(p, sizes, seed=0):
    """Random lhs, lhs_scale, rhs, rhs_scale, and the sizes given."""
    lhs, lhs_scale, rhs, rhs_scale = oracle.operands(_all(p), seed)
    lhs_scale = None if lhs_scale is None else lhs_scale[0]
    weights = (x.reshape(p.experts, p.n, -1) for x in (rhs, rhs_scale))
    return lhs[0], lhs_scale, *weights, jnp.asarray(sizes, jnp.int32)


def assert_close(p, got, args, dequantized="float32"):
    """Compare each row with the product by the weight of its expert, the rest with zero."""
    lhs, lhs_scale, rhs, rhs_scale, sizes = args
    owner = np.repeat(np.arange(p.experts), sizes)
    assert got.shape == (p.m, p.n)
    assert not np.any(np.asarray(got[len(owner) :], np.float32))
    for expert in set(owner.tolist()):
        rows = np.flatnonzero(owner == expert)
        scale = None if lhs_scale is None else lhs_scale[None, rows]
        asked = oracle.product(
            len(rows),
            p.n,
            p.k,
            p.lhs,
            p.rhs,
            out=p.out,
            group=p.group if p.grouped else None,
            lhs_group=p.lhs_scale == "group",
        )
        its = (lhs[None, rows], scale, rhs[expert][None], rhs_scale[expert][None])
        oracle.assert_close(asked, got[None, rows], its, dequantized)


def _all(p):
    """The product of all rows by the weights of all experts, one below the other."""
    return oracle.product(
        p.m,
        p.experts * p.n,
        p.k,
        p.lhs,
        p.rhs,
        out=p.out,
        group=p.group if p.grouped else None,
        lhs_group=p.lhs_scale == "group",
    )
