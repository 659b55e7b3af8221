"""N:M sparsity beside loops over every group, on shapes and numbers that hypothesis finds."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from qpass.errors import RuleError
from qpass.numerics.sparsity import NM, Masked, largest

# Few values, so that many are equal.
VALUES = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -3.0, 1e-30, 1e30])

# Shapes, an axis, n and m: groups that divide the axis, that do not, and that are longer.
GROUPS = [
    ((8, 3), 0, 2, 4),
    ((3, 7), 1, 2, 4),
    ((2, 9, 2), 1, 3, 5),
    ((3,), 0, 2, 4),
    ((4, 2), 0, 1, 1),
    ((2, 6), 1, 1, 3),
]


def by_loops(x, axis, n, m):
    """Group by group, the first of equal ones first."""
    kept = np.zeros(x.shape, bool)
    lines, marks = np.moveaxis(x, axis, -1), np.moveaxis(kept, axis, -1)
    for index in np.ndindex(lines.shape[:-1]):
        for start in range(0, lines.shape[-1], m):
            group = np.abs(lines[index][start : start + m])
            for place in sorted(range(len(group)), key=lambda k, g=group: (-g[k], k))[:n]:
                marks[index][start + place] = True
    return kept


@given(st.data())
def test_masks_are_those_of_loops(data):
    shape, axis, n, m = data.draw(st.sampled_from(GROUPS))
    x = data.draw(arrays.arrays(np.float32, shape, elements=VALUES.map(np.float32)))
    got = jax.jit(largest, static_argnums=(1, 2, 3))(x, axis, n, m)
    np.testing.assert_array_equal(got, by_loops(x, axis, n, m))


def test_two_of_four_in_every_dtype_and_under_jit():
    x = np.random.default_rng(0).standard_normal((16, 6))
    for dtype in ("float32", "bfloat16", "float16"):
        given = jnp.asarray(x, dtype)
        got = jax.jit(Masked("w", NM(2, 4), given.shape, 0).mask)(given)
        np.testing.assert_array_equal(got, by_loops(np.asarray(given, np.float64), 0, 2, 4))
        assert np.all(np.asarray(got).reshape(4, 4, 6).sum(1) == 2)


def test_steps_at_which_masks_are_made():
    once, often = NM(2, 4, start=3), NM(2, 4, start=3, every=2)
    assert [k for k in range(9) if once.is_due(k)] == [3]
    assert [k for k in range(9) if often.is_due(k)] == [3, 5, 7]
    assert NM(2, 4).is_due(jnp.int32(0))
    assert (str(once), str(NM(1, 3))) == ("2:4", "1:3")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"n": 0, "m": 4}, "0 < n <= m; got 0:4"),
        ({"n": 5, "m": 4}, "0 < n <= m; got 5:4"),
        ({"n": 2.0, "m": 4}, "integers"),
        ({"n": True, "m": 4}, "integers"),
        ({"n": 2, "m": 4, "start": -1}, "start= of 0 or more"),
        ({"n": 2, "m": 4, "every": -2}, "every= of 1 or more"),
    ],
)
def test_what_is_no_sparsity_is_refused(numbers, message):
    with pytest.raises(RuleError, match=message):
        NM(**numbers)
