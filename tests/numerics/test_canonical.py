import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass_kernels.kernel import CODES
from tests.numerics import oracle
from tests.numerics.tensors import moves, tensor, tensors


def assert_canonical(q, batch, free, contract):
    codes, scale, zero, group, _ = q.canonical(batch, free, contract)
    padded = q.padded(contract)
    sizes = [math.prod(q.shape[a] for a in axes) for axes in (batch, free)]
    assert codes.shape == (*sizes, math.prod(padded))
    assert scale.shape[:2] == codes.shape[:2]
    k = codes.shape[2]
    assert scale.shape[2] == max(-(-k // group), 1)
    assert codes.dtype.name in (*CODES, "float32")
    assert (zero is None) == (q.zero is None)
    exact = oracle.widen(codes).astype(np.float64)
    if zero is not None:
        exact -= np.repeat(np.asarray(zero), group, 2)[:, :, :k]
    got = exact * np.repeat(np.asarray(scale, float), group, 2)[:, :, :k]
    wanted = oracle.values(q).transpose(*batch, *free, *contract)
    tail = [(0, p - q.shape[a]) for a, p in zip(contract, padded, strict=True)]
    tails = [(0, 0)] * len((*batch, *free)) + tail
    inside = np.pad(np.ones(wanted.shape, bool), tails).reshape(codes.shape)
    np.testing.assert_array_equal(got[inside], wanted.ravel())
    assert not oracle.widen(codes)[~inside].any()


@given(tensors(), st.data())
def test_any_tensor_any_roles(q, data):
    axes = data.draw(st.permutations(range(q.ndim)))
    i, j = sorted(data.draw(st.tuples(st.integers(0, q.ndim), st.integers(0, q.ndim))))
    assert_canonical(q, tuple(axes[:i]), tuple(axes[i:j]), tuple(axes[j:]))


@pytest.mark.parametrize("spec", ["int8", "int4 g4", "int8 tensor"])
def test_typical_weights(spec):
    for contract, free in [((1,), (2,)), ((2,), (1,)), ((1, 2), ()), ((2, 1), ())]:
        q = tensor((3, 10, 6), (spec, jnp.float32), contract, (0,))
        assert_canonical(q, (0,), free, contract)
        for perm in itertools.permutations(range(3)):
            turned = q.transpose(perm)
            at = perm.index
            assert_canonical(turned, (at(0),), tuple(map(at, free)), tuple(map(at, contract)))


def test_shapes_that_a_kernel_gets():
    q = tensor((10, 6), ("int4 g4", jnp.float32), (0,))
    codes, scale, _, group, _ = q.canonical((), (1,), (0,))
    assert (codes.shape, scale.shape, group) == ((1, 6, 10), (1, 6, 3), 4)
    assert q.padded((0,)) == (10,)
    q = tensor((10, 6), ("int8", jnp.float32), (0,))
    codes, scale, _, group, _ = q.canonical((), (1,), (0,))
    assert (codes.shape, scale.shape, group) == ((1, 6, 10), (1, 6, 1), 10)
    for n, padded in ((8, 8), (10, 12)):  # only groups that would straddle are filled up
        q = tensor((4, n, 6), ("int4 g4", jnp.float32), (0, 1))
        codes, scale, _, group, _ = q.canonical((), (2,), (0, 1))
        assert (codes.shape, scale.shape, group) == ((1, 6, 4 * padded), (1, 6, padded), 4)
        assert q.padded((0, 1)) == (4, padded)
        assert not oracle.widen(codes).reshape(6, 4, padded)[:, :, n:].any()
        codes, scale, _, group, _ = q.canonical((), (2,), (1, 0))
        assert (codes.shape, scale.shape, group) == ((1, 6, 4 * n), (1, 6, 4 * n), 1)


@pytest.mark.parametrize("spec", ["int8", "int4 g4"])
@pytest.mark.parametrize("contract", [(1,), (2,), (1, 2), (2, 1)])
def test_packed_codes_do_not_move(spec, contract):
    q = tensor((3, 8, 16), (spec, jnp.float32), contract, (0,), pack=True)
    free = tuple(a for a in (1, 2) if a not in contract)
    assert moves(lambda q: q.canonical((0,), free, contract)[0], q) in ([], ["reshape"])
    assert q.operand_order((0, 1, 2)) == (0, *free, *contract)


def test_a_short_last_group_moves_no_codes():
    q = tensor((10, 6), ("int4 g4", jnp.float32), (0,), pack=True)
    assert moves(lambda q: q.canonical((), (1,), (0,))[0], q) == ["reshape"]


def test_asking_in_operand_order_moves_no_codes():
    q = tensor((8, 4, 6, 16), ("int8", jnp.float32), (0, 2), pack=True)
    free, contract = q.operand_order((3, 1)), q.operand_order((2, 0))
    assert (free, contract) == ((1, 3), (0, 2))
    assert moves(lambda q: q.canonical((), free, contract)[0], q) == ["reshape"]
    assert "transpose" in moves(lambda q: q.canonical((), (3, 1), contract)[0], q)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("spec", ["int8", "int4 g4", "int8 tensor"])
def test_empty(shape, spec):
    q = tensor(shape, (spec, jnp.float32), (0,))
    codes, scale, _, group, _ = q.canonical((), (1,), (0,))
    assert codes.shape == (1, shape[1], shape[0])
    assert scale.shape[:2] == (1, shape[1])
    assert group >= 1


def test_one_contracted_element():
    for spec in ("int8", "int4 g4", "int8 tensor"):
        q = tensor((1, 5), (spec, jnp.float32), (0,))
        assert_canonical(q, (), (1,), (0,))
        assert q.canonical((), (1,), (0,)).group == 1


def test_a_product_with_it_is_the_product():
    """Exact in float64: group by group as kernels compute it, against the dequantized weight."""
    q = tensor((10, 6), ("int4 g4", jnp.float32), (0,))
    x = np.random.default_rng(0).integers(-9, 9, (5, 10)).astype(np.float64)
    codes, scale, _, group, _ = q.canonical((), (1,), (0,))
    padded = np.pad(x, ((0, 0), (0, 2)))
    grouped = padded.reshape(5, -1, group)
    whole = np.pad(oracle.widen(codes)[0], ((0, 0), (0, 2)))
    products = np.einsum("mgk,ngk->mng", grouped, whole.reshape(6, -1, group))
    got = (products * np.asarray(scale, float)[0]).sum(-1)
    np.testing.assert_allclose(got, x @ oracle.values(q), rtol=1e-12)
