"""18. Calibration hooks that never ran, and nobody was told.

In Keras (#23512) GPTQ and AWQ were plain rounding for months. What measures in qpass today is
`compare`: a site that saw no sample has no error, rather than none that is worth mentioning.
"""

import jax.numpy as jnp
import pytest
from jax import lax

import qpass
from tests.peers.common import INT8, arrays


def branch(p, x, taken):
    return lax.cond(taken, lambda h: h @ p["a"], lambda h: h, x @ p["b"])


def loop(p, x, times):
    return lax.fori_loop(0, times, lambda _, h: jnp.tanh(h @ p["a"]), x)


def stack(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["a"])[0]


def test_a_site_that_did_not_run_is_said_to_be_unseen():
    params, x = arrays(4, 8, a=(8, 8), b=(8, 8))
    q = qpass.transform(branch, INT8)
    skipped, taken = q.compare(params, x, False), q.compare(params, x, True)
    assert [site.weight for site in skipped.sites] == ["b"]
    assert skipped.unseen == ("a/dot_general.0",)
    assert "did not run: a/dot_general.0" in str(skipped)
    assert {site.weight for site in taken.sites} == {"a", "b"}
    assert taken.unseen == ()


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (loop, (*arrays(4, 8, a=(8, 8)), 0)),
        (stack, arrays(4, 8, a=(0, 8, 8))),
    ],
    ids=["loop", "stack"],
)
def test_a_comparison_that_saw_nothing_is_an_error(fn, args):
    with pytest.raises(qpass.CallError, match=r"a/dot_general.0 did not run"):
        qpass.transform(fn, INT8).compare(*args)
