"""Perplexity by rules for attention, on a model of a few thousand random weights."""

import pytest

from qpass_bench.demo import attention
from tests.bench.demo.test_demo import OPTIONS, tiny_load


def test_every_way_is_measured_beside_float():
    model, text = tiny_load(OPTIONS, None)
    ways = {name: attention.WAYS[name] for name in ("qk int8, smooth", "v int4 g32")}
    found = attention.run(model, text, ways)
    assert list(found) == ["float", *ways]
    assert found["qk int8, smooth"] == pytest.approx(found["float"], rel=0.01)
    assert found["v int4 g32"] == pytest.approx(found["float"], rel=0.05)
    assert len(set(found.values())) == 3
