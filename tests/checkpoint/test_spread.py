"""The way back of ``fill``: what it was made of, under the names that it had."""

import jax
import numpy as np
import pytest

from qpass import QTensor
from qpass.checkpoint.mapping import To, fill
from qpass.checkpoint.spread import spread
from qpass.errors import CheckpointError
from tests.checkpoint.test_mapping import LIKE, NAMES, checkpoint

FULL = NAMES | {"model.layers.{i}.up_proj": To("layers/up", "out in -> in out")}


@pytest.mark.parametrize("scheme", ["int3 g32 asym", "nvfp4", "fp8_e4m3 b16x32"])
def test_spread_is_the_way_back(scheme):
    given = checkpoint(scheme)
    found = spread(fill(LIKE, given, FULL).params, FULL)
    assert set(found) == set(given)
    for name in given:
        one, other = given[name], found[name]
        assert one.shape == other.shape
        if isinstance(one, QTensor):
            assert isinstance(other, QTensor)
            np.testing.assert_array_equal(one.plain().codes, other.plain().in_order().codes)
            one, other = one.dequantize(), other.dequantize()
        np.testing.assert_array_equal(one, other, name)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES, r"Say what becomes of the axes of layers/up\[0\]"),
        (FULL | {"model.layers.{i}.k": "layers/k"}, "fits no leaf that another one has not"),
        ({"model.norm": "norm"}, "Name layers/o, layers/q, layers/router, layers/up too"),
        (FULL | {"model.layers.{i}.up_proj": To("layers/up", "o i -> (i o)")}, "without brackets"),
    ],
)
def test_what_has_no_way_back_is_refused(names, message):
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), LIKE)
    with pytest.raises(CheckpointError, match=message):
        spread(params, names)
