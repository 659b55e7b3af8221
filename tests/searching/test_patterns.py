"""Patterns fit all the paths that they are for, none of the others, and are few."""

from hypothesis import given
from hypothesis import strategies as st

from qpass.rules.globs import path_test
from qpass.searching.patterns import patterns

NAMES = st.sampled_from(["a", "b", "layers_1", "layers_12", "x*y", "w?", "re:a", "k[0]"])
PATHS = st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8)


@given(PATHS, PATHS)
def test_all_of_these_and_none_of_those(paths, others):
    others = others - paths
    tests = [path_test(text) for text in patterns(paths, others)]
    assert len(tests) <= len(paths)
    assert all(any(fits(path) for fits in tests) for path in paths)
    assert not any(fits(path) for path in others for fits in tests)


LAYERS = [f"layers_{i}/{name}" for i in range(12) for name in ("q", "up", "down")]


def test_layers_are_told_together():
    ups = [path for path in LAYERS if path.endswith("up")]
    rest = {*LAYERS, "head/up"} - {*ups}
    assert patterns(ups, rest) == ("layers_*/up",)
    assert patterns(ups, rest - {"head/up"}) == ("layers_*/up",)
    assert patterns([*LAYERS], {"head/up"}) == ("layers_*/**",)
    assert patterns([*LAYERS, "head"], ()) == ("**",)


def test_what_differs_by_layer_is_named():
    early = ["layers_0/up", "layers_0/q", "layers_0/down"]
    assert patterns(early, {*LAYERS} - {*early}) == ("layers_0/**",)
    assert patterns(["layers_3/up"], {*LAYERS} - {"layers_3/up"}) == ("layers_3/up",)
