"""Generation: one compiled loop says what a plain loop over whole sequences says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qpass_bench.models.decoder import Forward, empty_cache
from qpass_bench.models.generate import NEVER, complete, make_generator
from tests.bench.tiny import TINY, decoder_params

PROMPT = [7, 7, 120, 3]
STEPS = 9


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, decoder_params(seed=4))


def plain(params, prompt, steps):
    """Greedy, running the whole sequence for every token; zeros stand where text is to come."""
    forward, ids = jax.jit(Forward(TINY)), list(prompt)
    cache = empty_cache(TINY, 1, len(prompt) + steps)
    for _ in range(steps):
        padded = np.asarray([ids + [0] * (len(prompt) + steps - len(ids))])
        logits, _ = forward(params, padded, cache, jnp.int32(0))
        ids.append(int(logits[0, len(ids) - 1].argmax()))
    return ids


@pytest.fixture(scope="module")
def generator():
    return make_generator(Forward(TINY), TINY)


def test_completion_equals_a_plain_loop(params, generator):
    want = plain(params, PROMPT, STEPS)
    assert len(set(want[len(PROMPT) :])) > 3
    assert complete(generator, params, PROMPT, STEPS, NEVER, padded=6) == want
    assert complete(generator, params, PROMPT, STEPS, NEVER, padded=len(PROMPT)) == want


def test_completion_ends_before_the_stop_token(params, generator):
    want = plain(params, PROMPT, STEPS)
    said = want[len(PROMPT) :]
    for place in (0, 3, 5):
        stop = said[place]
        cut = len(PROMPT) + said.index(stop)
        assert complete(generator, params, PROMPT, STEPS, stop, padded=6) == want[:cut]


def test_the_loop_stops_when_all_rows_have_stopped(params, generator):
    tokens = np.asarray([PROMPT, PROMPT[::-1]], np.int32)
    start = np.int32(len(PROMPT))
    first, cache = generator.prefill(params, tokens, start - 1, length=32)
    free, steps, _ = generator.decode(params, first, cache, start, np.int32(8), np.int32(NEVER))
    assert int(steps) == 8
    stop = int(free[0, 2])
    said, steps, _ = generator.decode(params, first, cache, start, np.int32(8), np.int32(stop))
    end = free[0].tolist().index(stop)
    np.testing.assert_array_equal(said[0, : end + 1], free[0, : end + 1])
    assert set(said[0, end : int(steps)].tolist()) == {stop}


def test_no_python_runs_for_a_token(params):
    calls = []

    def counted(*args):
        calls.append(1)
        return Forward(TINY)(*args)

    generator = make_generator(counted, TINY)
    complete(generator, params, PROMPT, STEPS, NEVER, padded=6)
    traced = len(calls)
    complete(generator, params, PROMPT[::-1], STEPS, NEVER, padded=6)
    assert len(calls) == traced < STEPS


@pytest.mark.parametrize("prompt", [[], [1] * 9])
def test_a_prompt_that_does_not_fit_is_refused(params, generator, prompt):
    with pytest.raises(ValueError, match=f"1 to 8 tokens; this one has {len(prompt)}"):
        complete(generator, params, prompt, 4, NEVER, padded=8)
