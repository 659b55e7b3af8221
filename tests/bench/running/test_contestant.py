"""Contestants: what is stored, counted from buffers, and that nothing but numbers changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qpass
from qpass_bench.cases.schemes import FLOAT, W4A16, W8A8
from qpass_bench.models.decoder import Forward, empty_cache
from qpass_bench.running.contestant import buffer_bytes, enter, sizes
from tests.bench.tiny import TINY, decoder_params
from tests.helpers import is_qtensor

TOKENS = np.arange(8, dtype=np.int32)[None]
EXAMPLE = (jnp.asarray(TOKENS), empty_cache(TINY, 1, 8), jnp.int32(0))


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, decoder_params())


def test_float_runs_as_it_is(params):
    forward = Forward(TINY)
    contestant = enter(FLOAT, forward, params, *EXAMPLE)
    assert contestant.forward is forward
    assert contestant.params is params
    assert contestant.plan is None


@pytest.mark.parametrize(("variant", "bound"), [(W8A8, 0.1), (W4A16, 1e-5)])
def test_every_weight_is_stored_quantized_and_attention_is_not(params, variant, bound):
    """Against the float model on the stored values, weight-only differs by float rounding only."""
    contestant = enter(variant, Forward(TINY), params, *EXAMPLE)
    rows = contestant.plan.rows
    assert {row.weight for row in rows if row.quantized} == set(weights(params))
    assert {row.role for row in rows if not row.quantized} == {"qk", "pv"}
    values = jax.tree.map(dequantized, contestant.params, is_leaf=is_qtensor)
    exact, _ = Forward(TINY)(values, *EXAMPLE)
    rough, _ = jax.jit(contestant.forward)(contestant.params, *EXAMPLE)
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < error < bound


def dequantized(leaf):
    return leaf.dequantize() if is_qtensor(leaf) else leaf


def weights(params):
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    names = ("/".join(key.key for key in path) for path, _ in paths)
    return [name for name in names if name.endswith(("kernel", "embedding"))]


def test_sizes_count_buffers_by_type(params):
    stored = enter(W4A16, Forward(TINY), params, *EXAMPLE).params
    counted = sizes(stored, params)
    assert set(counted.kinds) == {"int4", "int8"}
    embedding = TINY.vocab * TINY.width
    assert counted.kinds["int8"] == (embedding + 4 * TINY.vocab, 4 * embedding)
    report = counted.report(buffer_bytes(params))
    assert report["bytes"] == buffer_bytes(stored)
    assert report["ratio"] == pytest.approx(buffer_bytes(stored) / buffer_bytes(params))
    # Codes of half a byte, and heads of 16 channels have a scale for 16 codes where 32 were asked.
    assert 0.15 < report["quantized"]["int4"]["ratio"] < 0.2


def test_buffers_hold_two_int4_codes_a_byte():
    assert buffer_bytes(jnp.zeros((6, 64), jnp.int4)) == 6 * 64 // 2
    assert buffer_bytes({"a": jnp.zeros(5), "b": (jnp.zeros(3, jnp.int8),)}) == 20 + 3


def test_trees_of_different_structure_are_not_compared(params):
    with pytest.raises(ValueError, match="scale"):
        sizes(params, {**params, "norm": {}})


def test_rules_that_match_nothing_do_not_pass_silently(params):
    variant = type(FLOAT)("typo", "", (qpass.Rule(path="layer/**", weight="int8"),))
    with pytest.raises(qpass.QPassError, match="layer"):
        enter(variant, Forward(TINY), params, *EXAMPLE)
