"""Column sums of a tensor, against sums in numpy, through every layout operation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass.errors import CorruptTensorError
from qpass.numerics import as_quantizer, quantize, with_sums
from tests.numerics import oracle

SPECS = ("int8", "int4 g4", "uint4 g4 asym", "int3 g4")
# operation -> whether sums follow
OPERATIONS = {
    "transpose": (lambda q: q.transpose((2, 0, 1)), True),
    "move codes": (lambda q: q.in_order(), True),
    "stack": (lambda q: q.stacked(1), True),
    "reverse": (lambda q: q.rev((0, 2)), True),
    "cast": (lambda q: q.astype(jnp.bfloat16), True),
    "merge free axes": (lambda q: q.transpose((0, 2, 1)).reshape((18, 8)), True),
    "split the contracted axis": (lambda q: q.reshape((3, 2, 4, 1, 6)), True),
    "finer groups": (lambda q: q.regrouped({1: 2}), True),
    "cut a free axis": (lambda q: q.slice((0, 0, 1), (3, 8, 6), (1, 1, 2)), True),
    "choose a layer": (lambda q: q.dynamic_slice((1, 0, 0), (1, 8, 6)).squeeze((0,)), True),
    "cut a contracted axis": (lambda q: q.slice((0, 0, 0), (3, 4, 6)), False),
    "look at one contracted row": (lambda q: q.dynamic_slice((0, 3, 0), (3, 1, 6)), False),
    "repeat": (lambda q: q.broadcast_in_dim((2, 3, 8, 6), (1, 2, 3)), False),
}


def summed(spec, contract=(1,)):
    """A stack of matrices, ``[3, 8, 6]``, K in the middle."""
    x = oracle.sample((3, 8, 6), jnp.float32)
    return with_sums(quantize(x, as_quantizer(spec), contract, (0,), pack=True), contract)


def by_hand(q):
    """Sums of codes times scales where those of q are, in logical order."""
    q = q.in_order().plain()
    scale = np.float64(q.scale)
    for axis, (n, block) in enumerate(zip(q.shape, q.blocks, strict=True)):
        scale = np.repeat(scale, block, axis).take(range(n), axis)
    summed = tuple(axis for axis, n in enumerate(q.sums.shape) if n != q.shape[axis])
    codes = np.int64(q.codes) - int(q.qtype.middle)
    return (codes * scale).sum(axis=summed, keepdims=True)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_sums_follow_or_are_dropped(spec, name):
    operation, follow = OPERATIONS[name]
    got = operation(summed(spec))
    got.check()
    assert (got.sums is not None) == follow
    if follow:
        assert_is_by_hand(got)


def assert_is_by_hand(q):
    wanted = by_hand(q)
    np.testing.assert_allclose(q.in_order().sums, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", ["fp8_e4m3", "nf4 g4"])
def test_only_integers_have_them(spec):
    assert summed(spec).sums is None


@pytest.mark.parametrize("spec", ["int8 tensor", "int4 b4x4", "int4 g5"])
@pytest.mark.parametrize("contract", [(0,), (1,), (0, 1), (1, 2)])
def test_scales_shared_along_other_axes_and_short_groups(spec, contract):
    x = oracle.sample((3, 8, 7), jnp.float32)
    q = with_sums(quantize(x, as_quantizer(spec), contract, pack=True), contract)
    assert q.in_order().sums.shape == tuple(1 if a in contract else x.shape[a] for a in range(3))
    assert_is_by_hand(q)


@pytest.mark.parametrize("k", [0, 1])
def test_sums_of_next_to_nothing(k):
    q = with_sums(quantize(jnp.ones((k, 2)), as_quantizer("int8"), (0,)), (0,))
    assert q.sums.shape == (1, 2)
    np.testing.assert_allclose(q.sums, np.full((1, 2), k), rtol=1e-6)


def test_bits_depend_on_nothing_around_them():
    x = oracle.sample((2, 999, 33), jnp.float32)

    def of(w):
        return with_sums(quantize(w, as_quantizer("int4 g32"), (0,), pack=True), (0,))

    alone = [jax.jit(of)(w).sums for w in x]
    np.testing.assert_array_equal([of(w).sums for w in x], alone)
    np.testing.assert_array_equal(jax.jit(jax.vmap(of))(x).sums, alone)


def test_bytes_and_text_count_them():
    q = summed("int4 g4")
    without = dataclasses.replace(q, sums=None)
    assert q.nbytes == without.nbytes + 4 * 3 * 6
    assert "sums=float32[3, 6, 1]" in repr(q)
    assert "sums" not in repr(without)


@pytest.mark.parametrize("wrong", [jnp.zeros((3, 6, 1), jnp.int32), jnp.zeros((3, 6, 2))])
def test_sums_that_do_not_fit_are_a_fault(wrong):
    with pytest.raises(CorruptTensorError, match=r"sums are .* beside codes"):
        dataclasses.replace(summed("int4 g4"), sums=wrong).check("w")


def test_operands_have_them_where_all_of_k_is_summed():
    q = summed("int4 g4")
    wanted = jnp.swapaxes(q.in_order().sums, 1, 2)
    for cuts in (None, (2,)):
        np.testing.assert_array_equal(q.canonical((0,), (2,), (1,), cuts).sums, wanted)
    assert q.canonical((), (2,), (0, 1)).sums is None
    assert q.canonical((0,), (1,), (2,)).sums is None


def test_vmap_and_shapes_alone():
    x = jax.ShapeDtypeStruct((3, 8, 6), jnp.float32)
    q = jax.eval_shape(
        jax.vmap(lambda w: with_sums(quantize(w, as_quantizer("int4 g4"), (0,)), (0,))), x
    )
    assert (q.sums.shape, q.sums.dtype) == ((3, 1, 6), jnp.float32)
