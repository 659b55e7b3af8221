"""What GPTQ holds on the device: the model, a Hessian, one batch; counted in live arrays."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qpass
from qpass.methods import sequential
from tests.programs import rules

LAYERS, WIDTH, HIDDEN, ROWS = 6, 64, 96, 128
HESSIAN = 4 * HIDDEN**2
BATCH = 4 * ROWS * (3 * WIDTH + HIDDEN)


def scanned(p, x):
    def layer(h, w):
        return h + jnp.tanh(h @ w["up"]) @ w["down"], None

    return lax.scan(layer, x, p)[0]


def unrolled(p, x):
    for k in range(LAYERS):
        x = x + jnp.tanh(x @ p["up"][k]) @ p["down"][k]
    return x


def live():
    gc.collect()
    return sum(a.nbytes for a in jax.live_arrays())


@pytest.fixture
def peaks(monkeypatch):
    """Bytes of all live arrays at each product, while its weight is being quantized."""
    found, solve = [], sequential.solve_read

    def counted(*args):
        solved = solve(*args)
        found.append(live())
        return solved

    monkeypatch.setattr(sequential, "solve_read", counted)
    return found


@pytest.mark.parametrize("fn", [scanned, unrolled])
def test_gptq_holds_one_hessian_and_one_batch(fn, peaks):
    rng = np.random.default_rng(0)
    sizes = {"up": (LAYERS, WIDTH, HIDDEN), "down": (LAYERS, HIDDEN, WIDTH)}
    params = {n: jnp.asarray(rng.standard_normal(s) / 8, jnp.float32) for n, s in sizes.items()}
    batches = [rng.standard_normal((ROWS, WIDTH)).astype(np.float32) for _ in range(12)]
    q = qpass.transform(fn, rules("int4"))
    before = live()  # with the model
    q.quantize(params, method=qpass.GPTQ(), batches=batches)
    assert len(peaks) == 2 * LAYERS
    layer = 3 * 4 * WIDTH * HIDDEN  # its weights as they were, and two as they become
    assert max(peaks) - before <= 2 * HESSIAN + BATCH + layer
