"""Scale axes come from the dimension numbers of the contraction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpass.errors import QuantizeError
from qpass.numerics import PerChannel, PerGroup, PerTensor, as_quantizer, block_sizes, quantize
from qpass.numerics.axes import count_blocks, full_order, inverse, trim_order
from tests.numerics import oracle

# (equation, shapes of the operands, place of the weight, its reduced axes)
TABLE = [
    ("BTD,NDH->BTNH", "BTD NDH", 1, (1,)),
    ("BSD,CKDH->CBSKH", "BSD CKDH", 1, (2,)),
    ("BTNH,NHD->BTD", "BTNH NHD", 1, (0, 1)),
    ("...F,NHF->...NH", "BTF NHF", 1, (2,)),
    ("...H,HF->...F", "BTH HF", 1, (0,)),
    ("...F,NFH->...NH", "BTF NFH", 1, (1,)),
    ("BTD,SNDH->SBTNH", "BTD SNDH", 1, (2,)),
    ("gecd,ekfd->kgecf", "gecd ekfd", 1, (3,)),
    ("btd,cfd->btcf", "btd cfd", 1, (2,)),
    ("BuwNH,FNH->BNuwF", "BuwNH FNH", 1, (2,)),
]
SIZES = {letter: 2 + i for i, letter in enumerate("BTDNHSCKFgecdkfbtuw")}
IDS = [equation for equation, *_ in TABLE]


def reduced_axes(equation, letters, weight):
    """Axes of an operand that the traced program contracts, from its `dot_general` alone.

    The weight is told from the activation by following its variable through the program.
    """
    shapes = [tuple(SIZES[letter] for letter in word) for word in letters.split()]
    jaxpr = jax.make_jaxpr(lambda *xs: jnp.einsum(equation, *xs))(*map(jnp.zeros, shapes))
    where = {jaxpr.jaxpr.invars[weight]: tuple(range(len(shapes[weight])))}
    for eqn in flatten(jaxpr.jaxpr, where):
        if eqn.primitive.name == "transpose" and eqn.invars[0] in where:
            axes = where[eqn.invars[0]]
            where[eqn.outvars[0]] = tuple(axes[i] for i in eqn.params["permutation"])
        if eqn.primitive.name == "dot_general":
            side = next(i for i, v in enumerate(eqn.invars) if v in where)
            contract, _ = eqn.params["dimension_numbers"]
            return tuple(sorted(where[eqn.invars[side]][i] for i in contract[side]))
    raise AssertionError("no dot_general")


def flatten(jaxpr, where):
    """Equations in order, those of nested programs included; `where` follows into them."""
    for eqn in jaxpr.eqns:
        inner = eqn.params.get("jaxpr")
        if inner is None:
            yield eqn
            continue
        for outer, var in zip(eqn.invars, inner.jaxpr.invars, strict=True):
            if outer in where:
                where[var] = where[outer]
        yield from flatten(inner.jaxpr, where)


@pytest.mark.parametrize(("equation", "letters", "weight", "reduced"), TABLE, ids=IDS)
class TestEquations:
    def test_reduced_axes(self, equation, letters, weight, reduced):
        assert reduced_axes(equation, letters, weight) == reduced

    def test_scale_of_weight_per_channel(self, equation, letters, weight, reduced):
        contract = reduced_axes(equation, letters, weight)
        w = oracle.sample(tuple(SIZES[letter] for letter in letters.split()[weight]))
        q = quantize(w, as_quantizer("int8"), contract)
        wanted = [1 if axis in reduced else n for axis, n in enumerate(w.shape)]
        assert q.scale.shape == tuple(wanted)
        amax = np.abs(np.asarray(w)).max(axis=reduced, keepdims=True)
        # Of -128 to 127, the side that the larger magnitude lies on is not the question here.
        np.testing.assert_allclose(np.abs(q.scale), amax / 128, rtol=0.008)

    def test_scale_of_weight_in_groups(self, equation, letters, weight, reduced):
        contract = reduced_axes(equation, letters, weight)
        w = oracle.sample(tuple(SIZES[letter] for letter in letters.split()[weight]))
        q = quantize(w, as_quantizer("int4 g3"), contract)
        wanted = list(w.shape)
        wanted[reduced[-1]] = -(-wanted[reduced[-1]] // 3) if wanted[reduced[-1]] > 3 else 1
        assert q.scale.shape == tuple(wanted)

    def test_packed_weight_holds_the_same(self, equation, letters, weight, reduced):
        w = oracle.sample(tuple(SIZES[letter] for letter in letters.split()[weight]))
        for spec in ("int8", "int4 g3", "int8 tensor"):
            plain = quantize(w, as_quantizer(spec), reduced)
            packed = quantize(w, as_quantizer(spec), reduced, pack=True)
            oracle.same(packed.dequantize(), plain.dequantize())
            assert packed.operand_order(range(w.ndim))[-len(reduced) :] == reduced
            assert packed.blocks == plain.blocks


def test_block_sizes():
    shape = (3, 10, 6)
    assert block_sizes(shape, PerTensor(), (1,)) == (3, 10, 6)
    assert block_sizes(shape, PerTensor(), (1,), (0,)) == (1, 10, 6)
    assert block_sizes(shape, PerChannel(), (1,)) == (1, 10, 1)
    assert block_sizes(shape, PerChannel(), (1, 2), (0,)) == (1, 10, 6)
    assert block_sizes(shape, PerChannel(), (-1,)) == (1, 1, 6)
    assert block_sizes(shape, PerChannel(), (0, 1), (0,)) == (1, 10, 1)
    assert block_sizes(shape, PerGroup(4), (1,)) == (1, 4, 1)
    assert block_sizes(shape, PerGroup(4), (2, 1)) == (1, 4, 1)
    assert block_sizes(shape, PerGroup(4), (1, 2)) == (1, 1, 4)
    assert block_sizes(shape, PerGroup(64), (1,)) == (1, 10, 1)
    assert block_sizes(shape, PerGroup(4), ()) == (1, 1, 1)
    assert block_sizes((), PerTensor(), ()) == ()
    assert block_sizes((0, 4), PerGroup(4), (0,)) == (1, 1)


@pytest.mark.parametrize("axis", [3, -4])
def test_axes_that_do_not_exist(axis):
    with pytest.raises(QuantizeError, match=rf"shape \(3, 10, 6\); got {axis}"):
        block_sizes((3, 10, 6), PerChannel(), (axis,))
    with pytest.raises(QuantizeError):
        block_sizes((3, 10, 6), PerChannel(), (0,), (axis,))


def test_count_blocks():
    assert [count_blocks(10, b) for b in (1, 3, 5, 9, 10)] == [10, 4, 2, 2, 1]
    assert [count_blocks(0, b) for b in (0, 1)] == [1, 0]


@given(st.permutations(range(5)))
def test_orders(perm):
    assert full_order(trim_order(perm), 5) == tuple(perm)
    assert [perm[i] for i in inverse(perm)] == list(range(5))
    lead = next((i for i in range(5) if perm[i] != i), 5)
    assert len(trim_order(perm)) == 5 - lead


def test_an_order_survives_leading_axes():
    order = trim_order((0, 1, 3, 2))
    assert order == (-1, -2)
    assert full_order(order, 3) == (0, 2, 1)
    assert full_order(order, 5) == (0, 1, 2, 4, 3)
