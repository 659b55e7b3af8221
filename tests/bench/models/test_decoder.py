"""The decoder: shapes, its cache, and attention against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_bench.models.decoder import Forward, attend, empty_cache, init, rope_angles, rotate
from tests.bench.tiny import TINY, decoder_params, decoder_shapes

FORWARD = jax.jit(Forward(TINY))


def tokens(batch, length, seed=1):
    return np.random.default_rng(seed).integers(0, TINY.vocab, (batch, length)).astype(np.int32)


def test_parameters_have_the_shapes_of_the_tree():
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(lambda: init(TINY)))
    assert shapes == decoder_shapes(TINY)


@pytest.mark.parametrize("parts", [(1,) * 9, (4, 5), (6, 1, 1, 1), (9,)])
def test_cached_decoding_equals_the_whole_sequence(parts):
    forward, params, text = FORWARD, decoder_params(), tokens(2, 9)
    whole, _ = forward(params, text, empty_cache(TINY, 2, 9), jnp.int32(0))
    cache, position, logits = empty_cache(TINY, 2, 12), 0, []
    for part in parts:
        now, cache = forward(params, text[:, position : position + part], cache, np.int32(position))
        position += part
        logits.append(now)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, atol=2e-4)


def test_logits_of_one_step_are_those_of_the_whole():
    forward, params, text = FORWARD, decoder_params(), tokens(2, 7)
    cache = empty_cache(TINY, 2, 7)
    whole, _ = forward(params, text, cache, jnp.int32(0))
    one, _ = forward(params, text, cache, jnp.int32(0), jnp.int32(4))
    assert one.shape == (2, 1, TINY.vocab)
    np.testing.assert_allclose(one[:, 0], whole[:, 4], atol=1e-5)


def test_a_token_sees_nothing_after_it():
    forward, params, text = FORWARD, decoder_params(), tokens(1, 8)
    other = text.copy()
    other[0, 5:] = (other[0, 5:] + 1) % TINY.vocab
    one, two = (forward(params, t, empty_cache(TINY, 1, 8), jnp.int32(0))[0] for t in (text, other))
    np.testing.assert_array_equal(one[:, :5], two[:, :5])
    assert np.abs(one[:, 5:] - two[:, 5:]).max() > 1e-3


def test_attention_against_numpy():
    rng = np.random.default_rng(0)
    batch, steps, length, heads, groups, dim, position = 2, 3, 7, 4, 2, 8, 2
    q = rng.standard_normal((batch, steps, heads, dim))
    k, v = rng.standard_normal((2, batch, length, groups, dim))
    want = np.zeros_like(q)
    for b, t, h in np.ndindex(batch, steps, heads):
        seen = position + t + 1
        scores = k[b, :seen, h // 2] @ q[b, t, h] / np.sqrt(dim)
        weights = np.exp(scores - scores.max())
        want[b, t, h] = weights @ v[b, :seen, h // 2] / weights.sum()
    operands = (q, k.transpose(0, 2, 3, 1), v.swapaxes(1, 2))
    got = attend(*(jnp.asarray(x, jnp.float32) for x in operands), jnp.int32(position))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_rotation_depends_on_distances_only():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 1, TINY.head_dim)).astype(np.float32)
    at = lambda x, p: rotate(x, rope_angles(TINY, jnp.array([p])))  # noqa: E731
    near, far = (float(jnp.sum(at(q, p + 3) * at(k, p))) for p in (0, 50))
    assert near == pytest.approx(far, abs=1e-3)
    assert near != pytest.approx(float(jnp.sum(at(q, 9) * at(k, 0))), abs=1e-3)
