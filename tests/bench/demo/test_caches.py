"""Perplexity with stored caches, on a model of a few thousand random weights."""

import numpy as np
import pytest

from qpass_bench.demo import caches
from tests.bench.demo.test_demo import OPTIONS, tiny_load


def test_every_way_is_measured_beside_float(monkeypatch):
    monkeypatch.setattr(caches, "PIECE", 8)
    monkeypatch.setattr(caches, "WINDOW", 16)
    model, _ = tiny_load(OPTIONS, None)
    cut = np.random.default_rng(0).integers(0, model.config.vocab, (1, 17)).astype(np.int32)
    ways = (None, ("int8", "int8"), ("int8", "int4 g8"))
    exact, int8, mixed = (caches.measure(model, way, cut, lambda: None) for way in ways)
    assert int8["perplexity"] == pytest.approx(exact["perplexity"], rel=0.01)
    assert mixed["perplexity"] == pytest.approx(exact["perplexity"], rel=0.05)
    head = model.config.head_dim
    assert int8["bytes"] == int8["of"] * (head + 4) / (4 * head)
    assert mixed["bytes"] < int8["bytes"] < exact["bytes"] == exact["of"]
