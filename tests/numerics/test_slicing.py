import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qpass.numerics.packing import Packed
from qpass.numerics.slicing import _grouped_window
from tests.numerics import oracle
from tests.numerics.tensors import assert_follows, tensor

G4 = ("int4 g4", jnp.float32)
PACK = pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])


@PACK
@pytest.mark.parametrize("spec", [("int8", jnp.float32), ("int8 tensor", jnp.bfloat16)])
def test_slice_without_groups_always_follows(spec, pack):
    q = tensor((5, 9, 4), spec, (1,), (0,), pack)
    got = q.slice((1, 2, 0), (5, 9, 3), (2, 3, 1))
    assert_follows(q, got, lambda x: x[1:5:2, 2:9:3, :3])
    assert_follows(q, q.slice((0, 0, 0), (5, 9, 4)), lambda x: x)
    assert_follows(q, q.slice((2, 0, 0), (2, 9, 4)), lambda x: x[2:2])
    assert_follows(q, q.slice((0, 3, 0), (5, 3, 4)), lambda x: x[:, 3:3])


@pytest.mark.parametrize("group", [2, 3, 4, 6])
def test_every_slice_of_groups_is_right_or_refused(group):
    followed = 0
    for start, stride, size in itertools.product(range(13), range(1, 13), range(1, 9)):
        got = _grouped_window(group, start, size, stride)
        if got is None:
            assert not _describable(np.arange(start, start + 32 * stride, stride) // group)
            continue
        followed += 1
        scales = range(got.start, got.limit, got.stride)
        blocks = size if got.size == 1 else got.group or 1
        assert len(scales) == got.size == oracle.counts((size,), (blocks,))[0]
        for i in range(size):
            assert scales[i // blocks] == (start + i * stride) // group
    assert followed > 100


def _describable(group_of):
    """Whether groups of one size, the last one shorter, describe this list of group numbers.

    Asked of a slice continued without end: a short one may fit by chance and is refused all the
    same.
    """
    runs = [len(list(run)) for _, run in itertools.groupby(group_of)]
    steps = set(np.diff(np.unique(group_of)))
    return len(runs) < 2 or (len({*runs[:-1]}) == len(steps) == 1 and runs[-1] <= runs[0])


@PACK
@pytest.mark.parametrize(
    ("window", "group"),
    [
        ((0, 8, 1), 4),
        ((4, 10, 1), 4),
        ((4, 8, 1), 0),
        ((5, 7, 1), 0),
        ((0, 10, 2), 2),
        ((1, 10, 4), 0),
    ],
)
def test_group_afterwards(window, group, pack):
    start, limit, stride = window
    q = tensor((10, 3), G4, pack=pack)
    got = q.slice((start, 0), (limit, 3), (stride, 1))
    assert_follows(q, got, lambda x: x[start:limit:stride])
    assert dict(got.groups).get(-2, 0) == group


@PACK
@pytest.mark.parametrize("traced", [False, True])
def test_dynamic_slice(pack, traced):
    q = tensor((5, 9, 4), ("int8", jnp.float32), (1,), (0,), pack)
    for start, size in [((1, 2, 3), (2, 3, 1)), ((-3, 0, 9), (1, 9, 2)), ((0, 0, 0), (5, 9, 4))]:
        put = [min(max(s, 0), n - k) for s, n, k in zip(start, q.shape, size, strict=True)]
        at = tuple(slice(s, s + k) for s, k in zip(put, size, strict=True))

        def run(q, *start, size=size):
            return q.dynamic_slice(start, size)

        got = jax.jit(run)(q, *start) if traced else run(q, *start)
        assert_follows(q, got, lambda x, at=at: x[at])
        traced_start = [jnp.asarray(s) for s in start]
        same = lax.dynamic_slice(q.latent, traced_start, size, allow_negative_indices=False)
        oracle.same(got.latent, same)


@PACK
def test_dynamic_slice_of_groups(pack):
    q = tensor((3, 10), G4, (1,), pack=pack)
    assert_follows(q, q.dynamic_slice((1, 0), (1, 10)), lambda x: x[1:2])
    assert_follows(q, q.dynamic_slice((0, 4), (3, 6)), lambda x: x[:, 4:])
    assert_follows(q, q.dynamic_slice((0, 99), (3, 2)), lambda x: x[:, 8:])
    assert q.dynamic_slice((0, 1), (3, 6)) is None

    def one(q, at):
        return q.dynamic_slice((0, at), (3, 1))

    for at in (-1, 0, 3, 4, 9, 12):
        place = min(max(at, 0), 9)
        got = jax.jit(one)(q, at)
        assert_follows(q, got, lambda x, place=place: x[:, place : place + 1])
    assert jax.eval_shape(lambda q, at: q.dynamic_slice((0, at), (3, 4)), q, 0) is None


WHOLE = {
    "slice": (lambda q: q.slice((1, 0, 0), (3, 9, 5)), np.s_[1:3]),
    "dynamic slice": (lambda q: q.dynamic_slice((1, 0, 2), (2, 9, 5)), np.s_[1:3]),
    "squeeze": (lambda q: q.slice((1, 0, 0), (2, 9, 5)).squeeze((0,)), 1),
}


@pytest.mark.parametrize("name", ["int3", "int3 g4 asym", "mxfp6 g4"])
@pytest.mark.parametrize(("part", "where"), WHOLE.values(), ids=WHOLE)
def test_codes_stay_packed_where_their_last_axis_stays_whole(part, where, name):
    q = tensor((4, 9, 5), (name, jnp.float32), (1,), (0,), pack=True)
    got = part(q)
    assert isinstance(got.codes, Packed)
    assert_follows(q, got, lambda x: x[where])


def test_codes_are_unpacked_where_bytes_would_be_cut():
    q = tensor((4, 9, 5), ("int3", jnp.float32), (1,), (0,), pack=True)
    assert not isinstance(q.slice((0, 1, 0), (4, 9, 5)).codes, Packed)
    assert not isinstance(q.dynamic_slice((0, 1, 0), (4, 8, 5)).codes, Packed)
