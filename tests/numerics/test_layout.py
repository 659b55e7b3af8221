import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.numerics import oracle
from tests.numerics.tensors import SPECS, assert_follows, moves, tensor

WHERE = {
    "plain": {"contract": (1,)},
    "separate": {"contract": (2,), "separate": (0,)},
    "two": {"contract": (0, 2)},
    "packed": {"contract": (1,), "pack": True},
    "packed separate": {"contract": (1,), "separate": (0,), "pack": True},
    "packed two": {"contract": (2, 0), "pack": True},
}


SOME = [SPECS[k] for k in (0, 1, 2, 6, 10)]


@pytest.fixture(scope="module", params=SOME, ids=[name for name, _ in SOME])
def spec(request):
    return request.param


@pytest.fixture(scope="module", params=WHERE.values(), ids=WHERE)
def q(request, spec):
    return tensor((3, 10, 6), spec, **request.param)


def test_transpose(q):
    for perm in [(2, 0, 1), (1, 0, 2), (0, 1, 2)]:
        assert_follows(q, q.transpose(perm), lambda x, perm=perm: x.transpose(perm))


def test_transpose_moves_no_code():
    q = tensor((3, 10, 6), contract=(1,), pack=True)
    assert moves(lambda q: q.transpose((2, 1, 0)).codes, q) == []
    assert q.transpose((2, 1, 0)).codes is q.codes


def test_rev(q):
    free = [axis for axis in range(3) if axis - 3 not in dict(q.groups)]
    got = q.rev(tuple(free))
    assert_follows(q, got, lambda x: np.flip(x, free))
    assert_follows(q, q.rev(()), lambda x: x)


def test_rev_of_groups_needs_whole_groups():
    whole = tensor((8, 3), ("int4 g4", jnp.float32))
    assert_follows(whole, whole.rev((0,)), lambda x: x[::-1])
    assert tensor((10, 3), ("int4 g4", jnp.float32)).rev((0,)) is None


def test_broadcast_and_squeeze(q):
    shape, dims = (3, 1, 10, 1, 6, 2), (0, 2, 4)
    wide = q.broadcast_in_dim(shape, dims)
    assert_follows(q, wide, lambda x: np.broadcast_to(x[:, None, :, None, :, None], shape))
    assert_follows(wide, wide.squeeze((1, -3)), lambda x: x[:, 0, :, 0])
    assert_follows(q, q.broadcast_in_dim((3, 10, 6), (0, 1, 2)), lambda x: x)


@pytest.mark.parametrize("pack", [False, True])
def test_broadcast_of_a_size_one_axis(pack):
    q = tensor((1, 8, 3), ("int4 g4", jnp.float32), (1,), pack=pack)
    got = q.broadcast_in_dim((2, 4, 8, 3), (1, 2, 3))
    assert_follows(q, got, lambda x: np.broadcast_to(x, (2, 4, 8, 3)))
    assert_follows(got, got.slice((1, 2, 0, 0), (2, 3, 8, 3)), lambda x: x[1:2, 2:3])


def test_narrowing_astype(q):
    got = q.astype(jnp.float16)
    got.check()
    assert got.dtype == jnp.float16 == got.latent.dtype
    assert got.codes is q.codes
    if q.dtype == jnp.float32:
        oracle.same(got.dequantize(), q.dequantize().astype(jnp.float16))
    oracle.same(got.latent, q.latent.astype(jnp.float16))


def test_widening_astype_keeps_what_the_narrow_dtype_would_round():
    q = tensor((16, 8), ("int8", jnp.bfloat16))
    got = q.astype(jnp.float32).dequantize()
    np.testing.assert_array_equal(oracle.widen(got), oracle.values(q).astype(np.float32))
    oracle.same(got.astype(jnp.bfloat16), q.dequantize())


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, bool, jnp.complex64])
def test_astype_to_something_else_is_refused(dtype):
    assert tensor((4, 4)).astype(dtype) is None


def test_in_order_and_stacked(q):
    ordered = q.in_order()
    assert ordered.order == ()
    assert_follows(q, ordered, lambda x: x)
    for n in (0, 1, 2, 3):
        stacked = q.stacked(n)
        assert_follows(q, stacked, lambda x: x)
        assert stacked.codes.shape[:n] == stacked.scale.shape[:n] == q.shape[:n]


def test_stacked_tensors_can_be_indexed_scanned_and_mapped(q):
    whole = q.transpose((1, 2, 0)).stacked()
    wanted = oracle.widen(whole.dequantize())
    row = jax.tree.map(lambda x: x[4], whole)
    assert_follows(whole, row, lambda x: x[4])

    def body(carry, row):
        return carry, (row.dequantize(), row.transpose((1, 0)), row.latent)

    for run in (lambda t: lax.scan(body, 0, t)[1], jax.vmap(lambda t: body(0, t)[1])):
        values, turned, latent = run(whole)
        np.testing.assert_array_equal(oracle.widen(values), wanted)
        oracle.same(latent, whole.latent)
        assert_follows(whole, turned, lambda x: x.swapaxes(1, 2))


def test_stacked_does_nothing_where_nothing_is_to_do():
    q = tensor((3, 10, 6), contract=(1,), separate=(0,), pack=True)
    assert moves(lambda q: q.stacked().codes, q) == []


def test_inside_jit_as_outside():
    q = tensor((4, 6, 8), ("int4 g2", jnp.float32), (1,), pack=True)

    def f(q):
        return q.transpose((2, 0, 1)).reshape((32, 6)).slice((0, 2), (32, 6)).dequantize()

    oracle.same(jax.jit(f)(q), f(q))
