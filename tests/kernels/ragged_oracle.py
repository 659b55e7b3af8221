"""The float64 oracle of ragged products, and random ones."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from qpass_kernels import RaggedProduct
from qpass_kernels.kernel import CODES, FLOATS
from qpass_kernels.ragged_reference import one_expert
from tests.kernels import oracle

SIZES = {  # rows of each expert of 4, of 40 rows
    "even": (10, 10, 10, 10),
    "empty ones": (0, 17, 0, 23),
    "last empty": (25, 1, 14, 0),
    "rows left": (3, 0, 9, 7),
    "all in one": (0, 0, 40, 0),
    "none": (0, 0, 0, 0),
}


def ragged(m, n, k, experts, lhs, rhs, *, out="float32", group=None, lhs_group=False):
    """A RaggedProduct; `group` makes the right scales grouped, `lhs_group` the left ones too."""
    p = oracle.product(m, n, k, lhs, rhs, out=out, group=group, lhs_group=lhs_group)
    return RaggedProduct(m, n, k, experts, lhs, rhs, out, p.group, p.lhs_scale, p.rhs_scale)


@st.composite
def ragged_products(draw, sizes=40, ks=70, acts=oracle.ACTS):
    """Random products of every type, with the sizes of their groups, which may leave rows over."""
    size = st.integers(1, sizes)
    p = ragged(
        draw(size),
        draw(size),
        draw(st.integers(1, ks)),
        draw(st.integers(1, 7)),
        draw(st.sampled_from(acts)),
        draw(st.sampled_from(CODES)),
        out=draw(st.sampled_from(FLOATS)),
        group=draw(st.sampled_from((None, *range(1, 25)))),
        lhs_group=draw(st.booleans()),
    )
    ends = draw(st.lists(st.integers(0, p.m), min_size=p.experts, max_size=p.experts))
    return p, tuple(int(n) for n in np.diff([0, *sorted(ends)]))


def operands(p: RaggedProduct, group_sizes, seed=0) -> Any:
    """Random lhs, lhs_scale, rhs, rhs_scale and the sizes of the groups, as arrays."""
    lhs, lhs_scale, _, _ = oracle.operands(one_expert(p, p.m), seed)
    experts = one_expert(p, 1)
    stack = [oracle.operands(experts, seed + 1 + e)[2:] for e in range(p.experts)]
    rhs, rhs_scale = (np.concatenate([np.asarray(x[i]) for x in stack]) for i in (0, 1))
    rhs = jnp.asarray(rhs)
    scale = None if lhs_scale is None else lhs_scale[0]
    sizes = jnp.asarray(group_sizes, "int32")
    return lhs[0], scale, rhs, jnp.asarray(rhs_scale), sizes


def assert_close(p: RaggedProduct, got, args, dequantized="float32"):
    """Compare the rows of each expert with the oracle of its product, and the rest with zero."""
    lhs, lhs_scale, rhs, rhs_scale, group_sizes = args
    assert got.shape == (p.m, p.n)
    start = 0
    for e, size in enumerate(np.asarray(group_sizes)):
        rows = slice(start, start + int(size))
        start = rows.stop
        if size:
            one = (
                lhs[None, rows],
                None if lhs_scale is None else lhs_scale[None, rows],
                rhs[e : e + 1],
                rhs_scale[e : e + 1],
            )
            oracle.assert_close(one_expert(p, int(size)), got[None, rows], one, dequantized)
    np.testing.assert_array_equal(np.asarray(got[start:], np.float32), 0)
