import jax.numpy as jnp
import pytest

from qpass.errors import QuantizeError
from qpass.numerics.reshape import split_segments
from tests.numerics.tensors import assert_follows, moves, tensor

INT8, TENSOR, G4 = ("int8", jnp.float32), ("int8 tensor", jnp.float32), ("int4 g4", jnp.float32)

# (shape, spec, contracted axes, new sizes, groups afterwards by axis)
FOLLOWED = {
    "split free": ((8, 12), INT8, (0,), (8, 3, 4), {}),
    "split contracted": ((8, 12), INT8, (0,), (2, 4, 12), {}),
    "merge free": ((8, 3, 4), INT8, (0,), (8, 12), {}),
    "merge contracted": ((2, 4, 12), INT8, (0, 1), (8, 12), {}),
    "merge free before contracted": ((3, 4, 5), INT8, (1,), (12, 5), {0: 4}),
    "per tensor anything": ((8, 12), TENSOR, (0,), (2, 4 * 3, 4), {}),
    "per tensor flat": ((8, 12), TENSOR, (0,), (96,), {}),
    "group split in whole groups": ((16, 3), G4, (0,), (2, 8, 3), {1: 4}),
    "group split in one group": ((16, 3), G4, (0,), (4, 4, 3), {}),
    "group split in parts of one": ((16, 3), G4, (0,), (8, 2, 3), {0: 2}),
    "group split in three": ((24, 3), G4, (0,), (2, 3, 4, 3), {}),
    "merge onto grouped": ((3, 16), G4, (1,), (48,), {0: 4}),
    "merge onto grouped again split": ((3, 16), G4, (1,), (6, 8), {1: 4}),
    "grouped with a tail untouched": ((10, 6), G4, (0,), (10, 2, 3), {0: 4}),
    "grouped with a tail, units": ((10, 6), G4, (0,), (1, 10, 1, 6, 1), {1: 4}),
    "units only": ((8, 12), INT8, (0,), (1, 8, 1, 1, 12), {}),
    "one element": ((1, 1), INT8, (0,), (1,), {}),
    "to scalar": ((1, 1), INT8, (0,), (), {}),
}
REFUSED = {
    "free after contracted": ((4, 3), INT8, (0,), (12,)),
    "free after contracted, cut elsewhere": ((4, 6), INT8, (0,), (8, 3)),
    "tail split": ((10, 3), G4, (0,), (2, 5, 3)),
    "group cut unequally": ((12, 3), G4, (0,), (2, 6, 3)),
    "merge behind grouped": ((16, 3), G4, (0,), (48,)),
    "merge onto a tail": ((3, 10), G4, (1,), (30,)),
}


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("case", FOLLOWED.values(), ids=FOLLOWED)
def test_followed(case, pack):
    shape, spec, contract, sizes, groups = case
    q = tensor(shape, spec, contract, pack=pack)
    got = q.reshape(sizes)
    assert_follows(q, got, lambda x: x.reshape(sizes))
    assert {axis + got.ndim: size for axis, size in got.groups} == groups
    back = got.reshape(shape)
    if back is not None:
        assert_follows(got, back, lambda x: x.reshape(shape))


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case, pack):
    shape, spec, contract, sizes = case
    assert tensor(shape, spec, contract, pack=pack).reshape(sizes) is None


@pytest.mark.parametrize(
    ("shape", "contract", "separate", "sizes"),
    [
        ((8, 12), (0,), (), (8, 3, 4)),
        ((8, 12), (0,), (), (2, 4, 12)),
        ((8, 3, 4), (0,), (), (8, 12)),
        ((2, 4, 12), (0, 1), (), (8, 12)),
        ((5, 8, 12), (1,), (0,), (5, 2, 4, 3, 4)),
        ((5, 8, 12), (1,), (0,), (1, 5, 8, 1, 12)),
    ],
)
def test_packed_codes_stay_where_they_are(shape, contract, separate, sizes):
    q = tensor(shape, INT8, contract, separate, pack=True)
    assert moves(lambda q: q.reshape(sizes).codes, q) == ["reshape"]
    got = q.reshape(sizes)
    assert_follows(q, got, lambda x: x.reshape(sizes))
    assert got.order != ()


def test_codes_move_into_logical_order_where_packing_does_not_fit():
    q = tensor((3, 4, 5), INT8, (1,), pack=True)  # in memory: 3, 5, 4
    got = q.reshape((12, 5))
    assert_follows(q, got, lambda x: x.reshape(12, 5))
    assert got.order == ()


def test_leading_units_stay_leading():
    q = tensor((8, 12), INT8, (0,), pack=True).reshape((1, 8, 12))
    assert q.order == (-1, -2)
    assert q.codes.shape == (1, 12, 8)


def test_same_shape_is_the_same_tensor():
    q = tensor((8, 12), INT8, (0,))
    assert q.reshape((8, 12)) is q


def test_wrong_size_is_an_error():
    with pytest.raises(QuantizeError, match=r"product 96 for \(8, 12\); got \(8, 13\)"):
        tensor((8, 12)).reshape((8, 13))


def test_empty_is_refused():
    assert tensor((0, 12)).reshape((12, 0)) is None
    assert tensor((0, 12)).reshape((0, 12)) is not None


def test_segments():
    def split(old, new):
        return [(s.old, s.new) for s in split_segments(old, new)]

    assert split((2, 3, 4), (6, 4)) == [((0, 1), (0,)), ((2,), (1,))]
    assert split((6, 4), (2, 3, 4)) == [((0,), (0, 1)), ((1,), (2,))]
    assert split((4, 6), (8, 3)) == [((0, 1), (0, 1))]
    assert split((1, 4, 1), (4, 1, 1)) == [((1,), (0,))]
    assert split((1,), ()) == []
